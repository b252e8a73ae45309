//! Every program of ours through this kernel's verifier, with the programs' own log off and on.

use anyhow::ensure;
use lb_userspace::bpf::object::OBJECT;
use xtask::kernels::report::{Fact, Group};

use crate::{bpf, say};

/// Instructions that the verifier may walk through for one program, on every kernel: a fifth of what it allows, so that
/// what comes, and what another kernel's verifier makes of it, has room.
const VERIFIED: u64 = 200_000;

/// Levels of the programs' own log, and their names here.
const LEVELS: [(u8, &str); 2] = [(0, ""), (aya_log::Level::Debug as u8, ", logging")];

pub(crate) fn check() {
    for (level, suffix) in LEVELS {
        let mut prepared = None;
        let made = say::check(Group::Load, &format!("the object's maps{suffix}"), || {
            prepared = Some(bpf::prepare(OBJECT, level)?);
            Ok(String::new())
        });
        let Some(prepared) = prepared.filter(|_| made) else { continue };
        for program in prepared.programs() {
            say::check(Group::Load, &format!("{program}{suffix}"), || {
                let count = prepared.verify(&program)?;
                ensure!(count <= VERIFIED, "{count} instructions verified, and {VERIFIED} are allowed");
                if level == 0 {
                    say::fact(&Fact::Instructions { program: program.clone(), count });
                }
                Ok(format!("{count} instructions verified"))
            });
        }
    }
}
