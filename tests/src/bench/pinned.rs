//! Programs of others, pinned in bpffs and set up by somebody else for the benchmark's packets, side by side with ours.

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

/// Flows of each of its rows.
const FLOWS: [(&str, u32); 3] = [("1", 1), ("64k", 1 << 16), ("1M", 1 << 20)];

/// One that may be put behind the rig.
pub struct Program {
    path: PathBuf,
    name: String,
    program: Xdp,
}

impl Program {
    /// Opens it and tries whether the rig may call it.
    ///
    /// # Errors
    /// It is not there, is no BPF program, no XDP program, or was loaded with attributes the rig does not have.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        if !path.exists() {
            bail!("{shown}: not there; `bpftool prog pin id NUMBER {shown}` pins a loaded program");
        }
        let program = Xdp::from_pin(path, XdpAttachType::Interface).with_context(|| {
            format!("{shown}: not pinned by the kernel's BPF (a path in bpffs is wanted)")
        })?;
        // The facts of a map would be taken for those of a program.
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

    /// Its rows.
    pub fn definitions(&self) -> Vec<Definition> {
        let row = |(name, _): &(&str, u32)| {
            let what = format!("{}: TCP4 to 203.0.113.10:443, 64 bytes, {name} flows", self.path.display());
            Definition::new(Part::Pinned, self.id(name), "ns", what).above("floor/grow")
        };
        FLOWS.iter().map(row).collect()
    }

    /// One round of its rows; round 0 warms up.
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
    use std::{ffi::CString, io};

    use super::*;
    use crate::need_bpf;

    const MAP_CREATE: libc::c_long = 0;
    const PROG_LOAD: libc::c_long = 5;
    const OBJ_PIN: libc::c_long = 6;
    const SOCKET_FILTER: u32 = 1;
    const XDP: u32 = 6;
    const ARRAY: u32 = 2;
    /// `BPF_F_XDP_HAS_FRAGS` (since kernel 5.18).
    const FRAGS: u32 = 1 << 5;
    /// `BPF_XDP`, which loaders give for a plain `xdp`.
    const ATTACH_XDP: u32 = 37;

    /// A pin that goes with its test.
    struct Pin(PathBuf);

    impl Drop for Pin {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    fn bpf(command: libc::c_long, attribute: &[u64]) -> Result<i32> {
        // SAFETY: the attribute is as long as said, and what its words point to outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) };
        if fd < 0 { Err(io::Error::last_os_error().into()) } else { Ok(i32::try_from(fd)?) }
    }

    /// Two numbers of 4 bytes each, as they lie in the attribute.
    fn pair(first: u32, second: u32) -> u64 {
        if cfg!(target_endian = "little") { join(second, first) } else { join(first, second) }
    }

    fn join(upper: u32, lower: u32) -> u64 {
        u64::from(upper) << 32 | u64::from(lower)
    }

    fn pin(name: &str, fd: i32) -> Result<Pin> {
        let path = PathBuf::from(format!("/sys/fs/bpf/lb-bench-{}-{name}", std::process::id()));
        let text = CString::new(path.as_os_str().as_encoded_bytes())?;
        let pinned = bpf(OBJ_PIN, &[text.as_ptr().expose_provenance() as u64, pair(fd.cast_unsigned(), 0)]);
        // SAFETY: ours, and nobody else has it.
        unsafe { libc::close(fd) };
        pinned.map(|_| Pin(path))
    }

    /// `r0 = 2`, `exit`, pinned.
    fn program(name: &str, kind: u32, flags: u32, attach: u32) -> Result<Pin> {
        let instructions = [0x0000_0002_0000_00b7_u64, 0x0000_0000_0000_0095];
        let attribute = [
            pair(kind, 2),
            instructions.as_ptr().expose_provenance() as u64,
            c"GPL".as_ptr().expose_provenance() as u64,
            0,
            0,
            pair(0, flags),
            0,
            0,
            pair(0, attach),
        ];
        pin(name, bpf(PROG_LOAD, &attribute)?)
    }

    fn refusal(path: &Path) -> String {
        Program::open(path).err().map_or(String::new(), |error| format!("{error:#}"))
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let refusal = refusal(Path::new("/sys/fs/bpf/not-there"));
        assert!(refusal.starts_with("/sys/fs/bpf/not-there: not there;"), "{refusal}");
    }

    #[test]
    fn what_is_no_xdp_program_is_refused() -> Result<()> {
        need_bpf!();
        let map = pin("map", bpf(MAP_CREATE, &[pair(ARRAY, 4), pair(4, 1)])?)?;
        assert!(refusal(&map.0).contains("pinned, but no program"), "{}", refusal(&map.0));
        let filter = program("filter", SOCKET_FILTER, 0, 0)?;
        assert!(refusal(&filter.0).contains("only XDP programs"), "{}", refusal(&filter.0));
        assert!(refusal(Path::new("/etc/hosts")).contains("not pinned"));
        Ok(())
    }

    #[test]
    fn a_program_the_rig_may_not_call_is_refused_with_the_reason() -> Result<()> {
        need_bpf!();
        for (name, flags, attach) in [("frags", FRAGS, ATTACH_XDP), ("old", 0, 0)] {
            let other = program(name, XDP, flags, attach)?;
            assert!(refusal(&other.0).contains("neither `xdp.frags`"), "{}", refusal(&other.0));
        }
        let plain = program("plain", XDP, 0, ATTACH_XDP)?;
        assert_eq!(refusal(&plain.0), "");
        Ok(())
    }
}
