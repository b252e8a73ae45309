//! The developers' log: off and deleted by the verifier, or on and read from its ring buffer.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use aya_log::{EbpfLogger, Level};
use lb_common::{
    slot::Slot,
    wire::protocol::{TCP, UDP},
};
use lb_tests::{
    extension::fragmented,
    need_bpf,
    world::{Sizes, World},
};

use crate::scene::{self, SEED, V4, V6, add_backend, packet, vip};

const OFF: u8 = 0;
const DEBUG: u8 = Level::Debug as u8;

/// Keeps the lines it is given.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl log::Log for Lines {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().expect("nobody panics with it").push(line);
    }

    fn flush(&self) {}
}

fn world(level: u8) -> Result<World> {
    let mut world = World::with_log_level(Sizes::default(), SEED, level)?;
    add_backend(&mut world, 7, V4, V4)?;
    add_backend(&mut world, 8, V6, V4)?;
    world.add_service(vip(V4, 443), TCP, &[Slot::stable(7); 3])?;
    world.add_service(vip(V6, 53), UDP, &[Slot::stable(8); 3])?;
    Ok(world)
}

#[test]
fn a_forwarded_packet_is_one_line_with_its_addresses() -> Result<()> {
    need_bpf!();
    let mut world = world(DEBUG)?;
    let lines = Lines::default();
    let mut logger = EbpfLogger::init_with_logger(&mut world.ebpf, lines.clone())?;
    world.run("lb_xdp", &packet(vip(V4, 443), 40_000, TCP, 0))?;
    world.run("lb_xdp", &packet(vip(V6, 53), 40_001, UDP, 0))?;
    logger.flush();
    assert_eq!(
        *lines.0.lock().expect("nobody panics with it"),
        [
            "DEBUG 198.51.100.1:40000 -> 203.0.113.10:443 service 0 backend 7",
            "DEBUG IPv6 port 40001 -> port 53 service 1 backend 8",
        ]
    );
    Ok(())
}

#[test]
fn a_packet_that_is_not_forwarded_is_one_line_with_its_counter() -> Result<()> {
    need_bpf!();
    let mut world = world(DEBUG)?;
    let lines = Lines::default();
    let mut logger = EbpfLogger::init_with_logger(&mut world.ebpf, lines.clone())?;
    let fragment = fragmented(&packet(vip(V4, 443), 40_000, TCP, 64), 0, true);
    let outcome = world.run("lb_xdp", &fragment)?;
    logger.flush();
    let line = format!("DEBUG counter {}", outcome.verdict() as u32);
    assert_eq!(*lines.0.lock().expect("nobody panics with it"), [line]);
    Ok(())
}

#[test]
fn without_a_level_nothing_is_logged() -> Result<()> {
    need_bpf!();
    let mut world = world(OFF)?;
    let lines = Lines::default();
    let mut logger = EbpfLogger::init_with_logger(&mut world.ebpf, lines.clone())?;
    world.run("lb_xdp", &packet(vip(V4, 443), 40_000, TCP, 0))?;
    world.run("lb_xdp", &packet(vip(V4, 444), 40_000, TCP, 0))?;
    logger.flush();
    assert!(lines.0.lock().expect("nobody panics with it").is_empty());
    Ok(())
}

#[test]
fn the_log_changes_no_packet() -> Result<()> {
    need_bpf!();
    let (mut quiet, mut loud) = (world(OFF)?, world(DEBUG)?);
    for to in [vip(V4, 443), vip(V4, 444), vip(V6, 53)] {
        for protocol in scene::PROTOCOLS {
            let packet = packet(to, 40_000, protocol, 100);
            assert_eq!(quiet.run("lb_xdp", &packet)?, loud.run("lb_xdp", &packet)?);
        }
    }
    Ok(())
}

#[test]
fn a_log_that_is_off_is_deleted_by_the_verifier() -> Result<()> {
    need_bpf!();
    let mut sizes = Vec::new();
    for level in [OFF, DEBUG] {
        let info = world(level)?.program("lb_xdp")?.info()?;
        let size = (info.verified_instruction_count(), info.size_translated());
        sizes.push((size.0.expect("told since kernel 5.16"), size.1.expect("told to root")));
    }
    let [(quiet, quiet_bytes), (loud, loud_bytes)] = sizes[..] else { unreachable!("two levels") };
    assert!(quiet < loud, "{quiet} instructions verified without the log, {loud} with it");
    // The log's code is gone, not only skipped.
    assert!(quiet_bytes + 1000 < loud_bytes, "{quiet_bytes} bytes without the log, {loud_bytes} with it");
    Ok(())
}
