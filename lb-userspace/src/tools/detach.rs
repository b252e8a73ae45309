//! `lbd --detach`: takes everything of an instance off without an agent. What a running agent does when a client asks it
//! to detach is in [`crate::agent::run`].

use anyhow::{Result, bail};

use crate::{
    bpf::{bpffs::Place, capabilities, owner, pin::PinDirectory},
    instance::{lock::Lock, paths::Paths},
    kernel,
};

/// Takes the program of an instance off every interface and removes its pins. With `force`, also where the pins are in
/// use in another network namespace.
///
/// # Errors
/// An agent runs, or the pins are of another network namespace; nothing was changed then.
pub fn detach(instance: &str, force: bool) -> Result<()> {
    capabilities::check()?;
    let paths = Paths::new(instance, &Place::find()?.pins());
    let _lock = Lock::take(&paths.lock, instance)?;
    let pins = PinDirectory::new(&paths.pins);
    let _pins_lock = pins.lock()?;
    if !force && let Err(other) = owner::only_ours(&paths.pins)? {
        bail!("{other}; detach it there, or from here with `lbd --detach --force`");
    }
    kernel::detach(&paths.pins)?;
    Ok(())
}
