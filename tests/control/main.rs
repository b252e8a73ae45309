//! The real `lbd` and `lbctl`, from outside: what they say to bad input, and that a refusal changes nothing. Each test
//! has a host of its own (`world`), made of namespaces that go with it however it ends. What happens to packets is
//! tested elsewhere.

mod abuse;
mod agent;
mod answers;
mod changes;
mod commands;
mod config;
mod confirm;
mod decap;
mod endless;
mod events;
mod firewall;
mod first;
mod http;
mod interface;
mod killed;
mod limits;
mod log;
mod manager;
mod many;
mod matrix;
mod meter;
mod mounts;
mod namespaces;
mod order;
mod overlay;
mod pins;
mod pipe;
mod plan;
mod reload;
mod request;
mod socket;
mod start;
mod stopped;
mod stranger;
mod surroundings;
mod targets;
mod tracking;
mod trust;
mod unchanged;
mod unserved;
mod wire;
mod world;
