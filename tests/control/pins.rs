//! Pinned maps that this agent must not read: of another version, of another layout, or incomplete.

use std::fs;

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::{
    ABI_VERSION,
    map::{Node, name},
};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::world::{CONFIG, INSTANCE, World, isolated};

/// Starts an agent and stops it, so that its pins are there.
fn leave_pins(world: &World) -> Result<()> {
    world.start(CONFIG)?.end(Signal::SIGTERM)
}

/// Does what every refusal recommends.
fn take_the_way_out(world: &World) -> Result<()> {
    world.lbd(&["--detach", "--instance", INSTANCE])?.done()?;
    let mut agent = world.restart()?;
    ensure!(agent.json(&["status"])?["adopted"] == false);
    agent.assert_alive()
}

fn node(world: &World) -> Result<Array<MapData, Node>> {
    let map = MapData::from_pin(world.pins().join(name::NODE))?;
    Ok(Array::try_from(Map::Array(map))?)
}

#[test]
fn maps_of_another_abi_version_are_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        leave_pins(world)?;
        let mut array = node(world)?;
        let other = Node { abi_version: ABI_VERSION + 1, ..array.get(&0, 0)? };
        array.set(0, other, 0)?;
        let found = format!("ABI version {}", ABI_VERSION + 1);
        world.refused_start()?.refused(1, &[&found, "lbd --detach"]);
        ensure!(node(world)?.get(&0, 0)? == other, "it was written to");
        take_the_way_out(world)
    })
}

#[test]
fn a_map_of_another_layout_is_refused_by_name() -> Result<()> {
    isolated(test_name!(), |world| {
        leave_pins(world)?;
        let (counters, backends) = (world.pins().join(name::COUNTERS), world.pins().join(name::BACKENDS));
        fs::remove_file(&backends)?;
        MapData::from_pin(&counters)?.pin(&backends)?;
        let id = MapData::from_pin(&backends)?.info()?.id();
        world.refused_start()?.refused(1, &["map BACKENDS", "lbd --detach"]);
        ensure!(MapData::from_pin(&backends)?.info()?.id() == id, "it was replaced");
        ensure!(world.pins().join("link-lb0").exists(), "the program was taken off");
        take_the_way_out(world)
    })
}

#[test]
fn missing_maps_of_an_attached_program_are_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        leave_pins(world)?;
        fs::remove_file(world.pins().join(name::RING))?;
        world.refused_start()?.refused(1, &["RING", "lbd --detach"]);
        ensure!(!world.pins().join(name::RING).exists(), "it was made again");
        take_the_way_out(world)
    })
}

#[test]
fn a_new_seed_is_refused_since_it_would_move_every_flow() -> Result<()> {
    isolated(test_name!(), |world| {
        leave_pins(world)?;
        world.write("lb.toml", CONFIG.replace("control tests", "another"))?;
        world.refused_start()?.refused(2, &["node.seed", "lbd --detach"]);
        take_the_way_out(world)
    })
}
