//! Finishes or discards the work of an agent that was killed while it carried maps over. Also moves the pins, which is the
//! last step of carrying maps over.

use std::{fs, io};

use aya::{maps::MapData, programs::loaded_programs};
use lb_common::{ABI_VERSION, map::name};

use super::{
    add, copy,
    error::{MigrateError, OpenError},
    old,
    open::Options,
    swap, version_in,
};
use crate::{
    bpf::{
        loader::{LoadError, shapes},
        map_shapes::PINNED,
        pin::{PinDirectory, PinError},
    },
    fault::{self, Kind},
};

/// Finishes or discards the content of the staging directory. Afterwards there is no staging directory.
pub(crate) fn resume(options: &Options, pins: &PinDirectory) -> Result<(), OpenError> {
    let next = pins.staging();
    if !next.path().exists() {
        return Ok(());
    }
    let found = next.inspect()?;
    if !found.maps.contains(&name::NODE) {
        // `NODE` is pinned first, moved first, and removed last: without it, all maps are in force already, or none are left.
        if !found.is_empty() {
            log::info!("{}: the rest of the new maps is moved to its place", pins.path().display());
        }
        return Ok(move_pins(&next, pins)?);
    }
    let version = version_in(&next)?;
    let links = swap::links(pins).map_err(|source| unfinished(pins, version, source))?;
    // The maps have their version when all are pinned and filled. A younger build has more maps than the one that made these.
    if version == 0 || !is_used(&next, &found.programs, &links)? {
        log::info!("{}: new maps that were not in force yet are discarded", pins.path().display());
        next.remove()?;
        return Ok(());
    }
    if version != ABI_VERSION {
        return Err(OpenError::Version { pins: next.path().into(), found: version });
    }
    let new_shapes = shapes(&next)?;
    let Some(new) = old(&next, version, &new_shapes) else {
        return Err(OpenError::Version { pins: next.path().into(), found: version });
    };
    let new = new.map_err(|source| unfinished(&next, version, source))?;
    let content = new.content().map_err(|source| unfinished(&next, version, source))?;
    let mut added = add::begin(&next, &new_shapes, &content, &new.limits(), options.bpf_log)?;
    let kernel = &mut added.kernel;
    swap::announce(kernel, &next)?;
    swap::swap(kernel, &links).map_err(|source| unfinished(pins, version, source))?;
    let running = version_in(pins)?;
    match old(pins, running, &shapes(pins)?) {
        Some(Ok(old)) => {
            let content = old.content();
            content
                .and_then(|content| copy::rest(kernel, &content, old.as_ref(), None))
                .map_err(|source| unfinished(pins, running, source))?;
        }
        Some(Err(error)) => log::error!("flow records of the old maps are lost: {error}"),
        None => log::error!("flow records of the old maps are lost: they are of version {running}"),
    }
    added.finish(&next, new.as_ref())?;
    move_pins(&next, pins)?;
    log::info!(
        "{}: what an agent before began was finished: the new maps are in force",
        pins.path().display()
    );
    Ok(())
}

fn unfinished(pins: &PinDirectory, found: u32, source: MigrateError) -> OpenError {
    OpenError::Migrate { pins: pins.path().into(), found, source }
}

/// Whether a program in one of the links reads the new maps. The kernel is asked for the maps of programs only where none was
/// recorded, as agents of earlier builds did not: the answer needs CAP_SYS_ADMIN.
fn is_used(next: &PinDirectory, recorded: &[u32], links: &[swap::Link]) -> Result<bool, LoadError> {
    if !recorded.is_empty() {
        return Ok(links.iter().any(|link| recorded.contains(&link.program)));
    }
    let failed = |source| LoadError::Map { map: name::NODE, source };
    let node = MapData::from_pin(next.map(name::NODE)).map_err(failed)?.info().map_err(failed)?.id();
    let running = loaded_programs().filter_map(Result::ok);
    Ok(running
        .filter(|program| links.iter().any(|link| link.program == program.id()))
        .any(|program| program.map_ids().ok().flatten().is_some_and(|ids| ids.contains(&node))))
}

/// Moves the pins of the new maps over those of the old ones, `NODE` first: from then on the directory has the new version.
pub(super) fn move_pins(next: &PinDirectory, pins: &PinDirectory) -> Result<(), PinError> {
    // They would not agree with the new maps.
    pins.remove_unknown()?;
    pins.additions().remove()?;
    for map in PINNED {
        let (from, to) = (next.map(map), pins.map(map));
        let failed = |source| PinError::Io { path: to.clone(), action: "replacing the pin", source };
        fault::point(Kind::Pin).map_err(failed)?;
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(failed)?,
        }
    }
    pins.remove_former()?;
    next.remove_unknown()?;
    next.forget()?;
    let failed = |source| PinError::Io { path: next.path().into(), action: "removing the directory", source };
    fault::point(Kind::Pin).map_err(failed)?;
    fs::remove_dir(next.path()).map_err(failed)
}
