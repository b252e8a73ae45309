//! Opens the data path of an instance: adopts the maps that are pinned, carries them over, or makes new ones.

use std::path::PathBuf;

use lb_common::ABI_VERSION;

use super::{
    add::add,
    error::OpenError,
    found::{Found, found},
    migrate,
    resume::resume,
};
use crate::{
    bpf::{
        capabilities,
        loader::shapes,
        map_shapes,
        owner::{self, Owner},
        pin::PinDirectory,
    },
    config::spec::Limits,
    kernel::Kernel,
    tables::Tables as _,
};

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The instance's pin directory, for example `/sys/fs/bpf/lb/main`.
    pub pins: PathBuf,
    /// Sizes of the maps. Running maps of other sizes are replaced, if their content fits.
    pub limits: Limits,
    /// Level of the program's own log; `None` = level 0, and the verifier removes the logging code.
    pub bpf_log: Option<::log::Level>,
}

/// How the data path was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The maps of an earlier agent stay in use.
    pub adopted: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// First checks whose pins these are, see [`crate::bpf::owner`]: pins that another network namespace uses are refused
/// before a map is opened.
///
/// Adopts the pinned maps, carries them over into new maps where they are of another version or of other sizes (see
/// [`crate::upgrade`]), or makes new maps, and loads the programs. Attaches nothing that was not attached.
///
/// New maps are not valid before `NODE.abi_version` is written, which the first plan does last. An agent that dies before
/// that leaves incomplete pins, and the next agent removes them.
pub fn open(options: &Options) -> Result<(Kernel, Opened), OpenError> {
    capabilities::raise_locked_memory();
    let pins = PinDirectory::new(&options.pins);
    pins.create()?;
    let mut opened = Opened::default();
    match owner::look(&pins)? {
        Owner::Us => {}
        Owner::Left(namespace) => opened.warnings.push(format!(
            "{}: taken over from another network namespace ({namespace}), where nothing is attached any more",
            pins.path().display()
        )),
        Owner::Other(other) => return Err(OpenError::OtherNamespace(other)),
    }
    pins.record()?;
    resume(options, &pins)?;
    let (running, lacking) = match found(&pins, &mut opened.warnings)? {
        Found::Nothing => return Ok((Kernel::make(&pins, &options.limits, options.bpf_log)?, opened)),
        Found::Ours { sizes, lacking } => {
            pins.remove_unknown()?;
            if lacking.is_empty() {
                // An agent was killed after the last map had its place.
                pins.additions().remove()?;
            }
            (sizes, lacking)
        }
        Found::Other { version, shapes } => {
            let Some((kernel, warnings)) = migrate(options, &pins, version, &shapes)? else {
                return Err(OpenError::Version { pins: options.pins.clone(), found: version });
            };
            opened.warnings.extend(warnings);
            return Ok((kernel, Opened { adopted: true, ..opened }));
        }
    };
    opened.adopted = true;
    let adopt = |lacks: bool| {
        if lacks { add(&pins, options.bpf_log) } else { Ok(Kernel::adopt(&pins, options.bpf_log)?) }
    };
    if map_shapes::other_limits(&running, &options.limits, "").is_empty() {
        return Ok((adopt(!lacking.is_empty())?, opened));
    }
    // Packets may count in a map already that an agent before did not get to its place.
    let mut lacks = !lacking.is_empty();
    if lacks && pins.additions().path().exists() {
        drop(adopt(lacks)?);
        lacks = false;
    }
    let why = match migrate(options, &pins, ABI_VERSION, &shapes(&pins)?) {
        Ok(Some((kernel, warnings))) => {
            opened.warnings.extend(warnings);
            return Ok((kernel, opened));
        }
        Ok(None) => return Err(OpenError::Version { pins: options.pins.clone(), found: ABI_VERSION }),
        Err(OpenError::Migrate { source, .. }) => source.to_string(),
        Err(error) => error.to_string(),
    };
    // The migration may have failed after it had swapped the program in some links: finish it, or discard the new maps.
    resume(options, &pins)?;
    let kernel = adopt(lacks)?;
    opened.warnings.extend(map_shapes::other_limits(&kernel.sizes(), &options.limits, &why));
    Ok((kernel, opened))
}
