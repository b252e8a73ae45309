//! `[[service.backend]]`: the settings of a backend.

use std::net::{IpAddr, Ipv4Addr};

use super::Admin;
use crate::config::settings::{
    REQUIRED, settings,
    values::{numbers, quoted, words},
};

/// The largest weight.
pub const MOST_WEIGHT: u16 = 1000;

settings! {
    #[derive(Clone, Debug, PartialEq)]
    pub struct Backend;

    table BACKEND = "[[service.backend]]", "One backend of the service above it.";

    parts {
        name: String = String::new(),
        address: IpAddr = Ipv4Addr::UNSPECIFIED.into(),
    }

    "name" {
        takes: "string",
        default: "its address",
        about: "1 to 63 of the characters `A-Z a-z 0-9 . _ : -`, the first no `.` or `-`. Unique within the service. The ring is \
             made of names: a backend that gets a new address under its old name keeps its slots.",
        show: |backend| Some(quoted(&backend.name)),
    }

    "address" {
        takes: "IPv4 or IPv6 address",
        default: REQUIRED,
        about: "Where the outer header sends packets. Unique within the service.",
        show: |backend| Some(quoted(backend.address)),
    }

    "weight" (
        /// 0 = takes no new flows and keeps its old ones, like a drain.
        weight: u16 = 100
    ) {
        values: numbers(0..=MOST_WEIGHT),
        about: "Share of new flows, in proportion to the sum of all weights. 0 = no new flows, old ones go on.",
    }

    "state" (admin: Admin = Admin::Enabled) {
        values: words(),
        about: "`draining`: no new flows, old ones go on. `disabled`: no flows at all, and no health checks.",
    }
}
