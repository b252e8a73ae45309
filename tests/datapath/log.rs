//! The developers' log: off, and deleted by the verifier; or on, and read from its ring buffer.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::Map;
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
use lb_userspace::bpf::log::Named;

use crate::scene::{self, SEED, V4, V6, add_backend, client, packet, vip};

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
        self.0.lock().expect("no thread panics with it").push(line);
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
        *lines.0.lock().expect("no thread panics with it"),
        [
            "DEBUG 198.51.100.1:40000 -> 203.0.113.10:443 service 0 backend 7",
            "DEBUG IPv6 port 40001 -> port 53 service 1 backend 8",
        ]
    );
    Ok(())
}

#[test]
fn a_packet_not_forwarded_is_one_line_with_its_reason() -> Result<()> {
    need_bpf!();
    let mut world = world(DEBUG)?;
    let lines = Lines::default();
    let mut logger = EbpfLogger::init_with_logger(&mut world.ebpf, Named(lines.clone()))?;
    let whole = packet(vip(V4, 443), 40_000, TCP, 64);
    for frame in
        [fragmented(&whole, 0, true), packet(vip(V4, 444), 1, TCP, 0), packet(client(V4, 1), 1, UDP, 0)]
    {
        world.run("lb_xdp", &frame)?;
    }
    logger.flush();
    assert_eq!(
        *lines.0.lock().expect("no thread panics with it"),
        ["DEBUG dropped as fragment", "DEBUG passed_unserved", "DEBUG passed_not_service"]
    );
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
    assert!(lines.0.lock().expect("no thread panics with it").is_empty());
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

/// The instructions that the kernel made of `lb_xdp`, with maps by their ids.
fn instructions(world: &mut World) -> Result<Vec<[u8; 8]>> {
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    /// The beginning of `struct bpf_prog_info` (linux/bpf.h).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        jited_bytes: u32,
        translated_bytes: u32,
        jited: u64,
        translated: u64,
    }
    let program = world.program("lb_xdp")?;
    let size = program.info()?.size_translated().context("shown to root only")?;
    let mut code = vec![[0; 8]; size as usize / 8];
    let mut info = Info { translated_bytes: size, translated: code.as_mut_ptr() as u64, ..Info::default() };
    let bytes = size_of::<Info>() as u64;
    let descriptor = program.fd()?.as_fd().as_raw_fd() as u64;
    // `{ u32 bpf_fd; u32 info_len; u64 info; }`
    let mut request = [descriptor | bytes << 32, &raw mut info as u64];
    // SAFETY: the request is as long as said; the kernel writes at most `bytes` into `info` and `size` into `code`.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, request.as_mut_ptr(), size_of_val(&request))
    };
    ensure!(failed == 0, "asking for the program: {}", std::io::Error::last_os_error());
    Ok(code)
}

#[test]
fn a_log_that_is_off_is_deleted_by_the_verifier() -> Result<()> {
    need_bpf!();
    /// `ld_imm64` of a map, which appears as the map's id.
    const MAP: [u8; 2] = [0x18, 0x10];
    for (level, writes) in [(OFF, false), (DEBUG, true)] {
        let mut world = world(level)?;
        let Some(Map::RingBuf(log)) = world.ebpf.map("AYA_LOGS") else { bail!("no ring buffer") };
        let id = log.info()?.id().to_ne_bytes();
        let code = instructions(&mut world)?;
        let maps = code.iter().filter(|code| code[0] == MAP[0] && code[1] & 0xf0 == MAP[1]);
        // The kernel has deleted the log's code, and does not only skip it.
        assert_eq!(maps.clone().any(|code| code[4..] == id), writes, "level {level}");
        assert!(maps.count() > 5, "it knows its other maps");
    }
    Ok(())
}
