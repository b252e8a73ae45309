//! Foreign programs, pinned in bpffs and prepared by their owner for the benchmark's packets, measured next to our own.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::Xdp;
use aya_obj::{generated::bpf_prog_type, programs::XdpAttachType};

use super::{
    Settings, packet,
    rig::{Rig, Traffic},
    row::{Definition, Part, Samples},
};

/// The flow counts of its rows.
const FLOWS: [(&str, u32); 3] = [("1", 1), ("64k", 1 << 16), ("1M", 1 << 20)];

/// A program that the rig may call.
pub struct Program {
    path: PathBuf,
    name: String,
    program: Xdp,
}

impl Program {
    /// Opens the program and tries whether the rig may call it.
    ///
    /// # Errors
    /// There is no such file, it is no BPF program, no XDP program, or was loaded with attributes that the rig does not have.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        if !path.exists() {
            bail!("{shown}: not there; `bpftool prog pin id NUMBER {shown}` pins a loaded program");
        }
        let program = Xdp::from_pin(path, XdpAttachType::Interface).with_context(|| {
            format!("{shown}: not pinned by the kernel's BPF (a path in bpffs is wanted)")
        })?;
        // A pinned map must be refused here: its information would be read as that of a program.
        let descriptor = format!("/proc/self/fd/{}", program.fd()?.as_fd().as_raw_fd());
        let kind = std::fs::read_link(descriptor)?;
        if kind.as_os_str() != "anon_inode:bpf-prog" {
            bail!("{shown}: pinned, but no program ({})", kind.display());
        }
        let kind = program.info()?.program_type();
        if kind != bpf_prog_type::BPF_PROG_TYPE_XDP {
            bail!("{shown}: a program of type {kind:?}; only XDP programs can be measured");
        }
        let mut rig = Rig::load()?;
        rig.put(&program.fd()?.try_clone()?).with_context(|| {
            format!(
                "{shown}: the rig may not call it. A tail call wants the same attributes on both: load it as plain \
                 `xdp` (expected attach type BPF_XDP), neither `xdp.frags` nor for a device or CPU map (`xdp/devmap`, \
                 `xdp/cpumap`), nor bound to a device, nor attached to by an extension"
            )
        })?;
        let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        Ok(Self { path: path.to_owned(), name, program })
    }

    fn id(&self, flows: &str) -> String {
        format!("program/{}/flows={flows}", self.name)
    }

    /// The program's rows.
    pub fn definitions(&self) -> Vec<Definition> {
        let row = |(name, _): &(&str, u32)| {
            let what = format!("{}: TCP4 to 203.0.113.10:443, 64 bytes, {name} flows", self.path.display());
            Definition::new(Part::Pinned, self.id(name), "ns", what).above("floor/grow")
        };
        FLOWS.iter().map(row).collect()
    }

    /// One round of the program's rows; round 0 warms up.
    pub(super) fn measure(
        &self,
        rig: &mut Rig,
        settings: &Settings,
        round: u32,
        samples: &mut Samples,
    ) -> Result<()> {
        rig.put(&self.program.fd()?.try_clone()?)?;
        for (name, flows) in FLOWS {
            let next = u64::from(round) * u64::from(settings.packets);
            let traffic = Traffic::new(packet::reference(), flows);
            let (ns, action) = rig
                .run(&traffic, next, settings.packets)
                .with_context(|| format!("running {}", self.path.display()))?;
            if round == 0 {
                let action = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"]
                    .get(action as usize)
                    .unwrap_or(&"an unknown action");
                eprintln!("{}: answers {action}", self.id(name));
            } else {
                samples.entry(self.id(name)).or_default().push(ns);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not-there");
        let refusal = Program::open(&path).err().map_or(String::new(), |error| format!("{error:#}"));
        assert!(refusal.starts_with(&format!("{}: not there;", path.display())), "{refusal}");
    }
}
