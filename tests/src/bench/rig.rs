//! The rig from user space: the benchmark's own object (`lb-ebpf/src/bench.rs`), and one run of a program behind it.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, Xdp},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bench"));

/// `lb_ebpf::bench::Rig`; the size is asserted below.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    length: u32,
    mask: u32,
    next: u64,
    head: [u8; 16],
    services: u32,
    base: u32,
}

const _: () = assert!(size_of::<Record>() == 40);

// SAFETY: repr(C) over integers; 4 + 4 + 8 + 16 + 4 + 4 bytes leave no padding.
unsafe impl Pod for Record {}

/// The packets that go through a program.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    pub(super) frame: Vec<u8>,
    /// A power of two; 1 = the frame keeps its own source.
    pub(super) flows: u32,
    /// The number of services over which packets spread, at addresses from `base` on (IPv4, in host order); 0 = the frame keeps
    /// its own destination.
    pub(super) services: u32,
    pub(super) base: u32,
}

impl Traffic {
    pub(super) fn new(frame: Vec<u8>, flows: u32) -> Self {
        Self { frame, flows, services: 0, base: 0 }
    }
}

/// The loaded object.
pub(super) struct Rig(Ebpf);

impl Rig {
    pub(super) fn load() -> Result<Self> {
        Self::load_with(&mut EbpfLoader::new())
    }

    /// One of several rigs that run at once, without the tables of experiments.
    pub(super) fn small() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for map in ["FLOW_LRU", "FLOW_BUCKETS", "SMALL_FLOW_LRU", "SMALL_FLOW_BUCKETS", "MEMORY"] {
            loader.map_max_entries(map, 1);
        }
        Self::load_with(&mut loader)
    }

    fn load_with(loader: &mut EbpfLoader<'_>) -> Result<Self> {
        let mut rig = Self(loader.load(OBJECT).context("loading the benchmark's object")?);
        rig.program("rig")?;
        Ok(rig)
    }

    /// A program of the object, loaded into the kernel.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.0.program_mut(name).with_context(|| format!("no program {name}"))?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    /// A map of the object.
    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.0.map_mut(name).with_context(|| format!("no map {name}"))
    }

    /// A handle on a program of the object.
    pub(super) fn handle(&mut self, name: &str) -> Result<ProgramFd> {
        Ok(self.program(name)?.fd()?.try_clone()?)
    }

    /// Puts a program behind the rig.
    ///
    /// # Errors
    /// The kernel takes only programs of the rig's type and attributes for tail calls.
    pub(super) fn put(&mut self, program: &ProgramFd) -> Result<()> {
        let map = self.0.map_mut("UNDER_TEST").context("no UNDER_TEST")?;
        Ok(ProgramArray::try_from(map)?.set(0, program, 0)?)
    }

    /// Sends `packets` packets through the program behind the rig; the first one has number `next`. Returns nanoseconds for one
    /// packet, as the kernel measured them (a whole number), and the XDP action of the last packet.
    pub(super) fn run(&mut self, traffic: &Traffic, next: u64, packets: u32) -> Result<(f64, u32)> {
        let Traffic { frame, flows, services, base } = traffic;
        let mut head = [0; 16];
        head.copy_from_slice(frame.get(..16).context("a frame is longer than 16 bytes")?);
        let record = Record {
            length: frame.len() as u32,
            mask: flows - 1,
            next,
            head,
            services: *services,
            base: *base,
        };
        Array::<_, Record>::try_from(self.0.map_mut("RIG").context("no RIG")?)?.set(0, record, 0)?;
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = packets;
        let result = self.program("rig")?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }
}
