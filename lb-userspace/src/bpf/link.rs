//! Attaches `lb_xdp` to interfaces by a pinned link. So the program stays when the agent ends, and a new agent puts its own
//! program into the link without detaching.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, Xdp, XdpError, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};
use nix::net::if_::if_nametoindex;

use super::{
    kernel_version,
    pin::{self, PinError, remove_link},
    sys, takeover,
    xdp_netlink::{self, Mode, Present},
};
use crate::{
    config::spec::AttachMode,
    fault::{self, Kind},
    instance::paths::{DEFAULT_INSTANCE, instance_of_decap},
};

/// Why a program is not attached. The caller that reports the error names the interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("there is no such interface")]
    NoInterface,
    #[error("another XDP program is attached: {name} (id {id}); {way_out}")]
    Taken { id: u32, name: String, way_out: String },
    #[error("attaching in {} mode failed: {source}{}", .mode.name(), hint(*.mode, .source))]
    Refused { mode: Mode, source: io::Error },
    #[error(
        "the kernel has no XDP links (it is older than 5.9), so the program would go with the agent: not attached"
    )]
    NoLinks,
    #[error(
        "the link pinned at {pin} belongs to an interface that is in another network namespace now; move it back, or \
         delete it there and start again"
    )]
    OtherNamespace { pin: PathBuf },
    #[error("replacing the running program in place failed: {0}; it goes on as it is")]
    Replace(String),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("{0}")]
    Other(String),
}

/// The purpose of a program: it decides which program may be replaced, and which remedy an error names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// `lb_xdp`. With `force` it replaces another program of ours that is not in the pinned link.
    Balancer { force: bool },
    /// `lb_decap`.
    Decap,
}

/// The state in which an interface was found.
enum Found {
    /// The pinned link holds our program on the interface.
    Ours,
    /// No program is there. `stale` = the interface number of a pinned link whose interface is gone or has another name now.
    Free { stale: Option<u32> },
    /// A program that ours may replace.
    Forced { stale: Option<u32>, present: Present, name: String },
}

/// Checks whether a program can be attached, before anything is written. Returns the interface's number and its state.
fn look(interface: &str, pin: &Path, purpose: Purpose) -> Result<(u32, Found), AttachError> {
    let index = if_nametoindex(interface).map_err(|_| AttachError::NoInterface)?;
    let mut stale = None;
    if let Some(there) = pinned(pin)? {
        if !is_here(there)? {
            return Err(AttachError::OtherNamespace { pin: pin.into() });
        }
        if there.interface == index {
            return Ok((index, Found::Ours));
        }
        stale = Some(there.interface);
    }
    let Some(present) = present(index)? else { return Ok((index, Found::Free { stale })) };
    // A stale link is on another interface, so it cannot be the one that holds this program.
    let name = program_name(present.program);
    if purpose == (Purpose::Balancer { force: true }) && takeover::is_ours(&name) {
        return Ok((index, Found::Forced { stale, present, name }));
    }
    let base = pin.parent().and_then(Path::parent).unwrap_or(pin);
    let held = sys::XdpLinkInfo { program: present.program, interface: index };
    let way_out = way_out(purpose, interface, &name, pin::holder(base, held).as_deref());
    Err(AttachError::Taken { id: present.program, name, way_out })
}

/// Whether the pinned link holds our program on the interface already, so that attaching replaces it in place.
///
/// # Errors
/// Why attaching would fail, as far as that can be found without trying.
pub(crate) fn is_replaced(interface: &str, pin: &Path, purpose: Purpose) -> Result<bool, AttachError> {
    look(interface, pin, purpose).map(|(_, found)| matches!(found, Found::Ours))
}

/// `holder` is the name of the pin directory whose link holds the program.
fn way_out(purpose: Purpose, interface: &str, program: &str, holder: Option<&str>) -> String {
    let decap = holder.and_then(instance_of_decap).map(|instance| match instance {
        DEFAULT_INSTANCE => format!("`lbd decap detach --interface {interface}` takes it off"),
        other => format!("`lbd decap detach --interface {interface} --instance {other}` takes it off"),
    });
    let by_hand = "it was put there by hand, or is pinned in another bpf file system";
    match (purpose, program, holder) {
        (_, program, _) if !takeover::is_ours(program) => {
            "take it off first (`ip link set dev … xdp off`, or whatever put it there)".to_owned()
        }
        (Purpose::Decap, "lb_xdp", holder) => {
            let detach = match holder {
                Some(instance) => format!("`lbd --detach --instance {instance}`"),
                None => "the program that attached it".to_owned(),
            };
            format!(
                "it is the balancer, and an interface carries one XDP program: a host cannot be balancer and `lbd decap` \
                 backend on the same interface; {detach} takes it off"
            )
        }
        (Purpose::Decap, "lb_decap", _) => match decap {
            Some(way_out) => way_out,
            None => format!("{by_hand}: take it off where it was attached"),
        },
        (Purpose::Decap, ..) => format!("{by_hand}: `ip link set dev {interface} xdp off`"),
        (Purpose::Balancer { .. }, "lb_decap", _) => match decap {
            Some(way_out) => {
                format!("it is this host's own `lbd decap`: {way_out}, `lbd --force` takes its place")
            }
            None => format!("{by_hand}: `lbd --force` takes its place"),
        },
        (Purpose::Balancer { .. }, _, Some(instance)) => {
            format!("it belongs to instance {instance}: `lbd --force` takes its place")
        }
        (Purpose::Balancer { .. }, _, None) => {
            "it belongs to an instance in another bpf file system, or was put there by hand: `lbd --force` takes its place"
                .to_owned()
        }
    }
}

fn hint(mode: Mode, error: &io::Error) -> String {
    match mode {
        Mode::Native => "; node.mode = \"auto\" falls back to generic mode".to_owned(),
        Mode::Generic if error.raw_os_error() == Some(nix::libc::EINVAL) => {
            kernel_version::generic_hint(kernel_version::running())
        }
        Mode::Generic => String::new(),
    }
}

/// A program on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    pub index: u32,
    pub mode: Mode,
    /// It replaced the program of an earlier agent, without detaching.
    pub replaced: bool,
    /// A note for the operator: why the mode is not native, or that it differs from the configured mode.
    pub note: Option<String>,
}

/// Attaches `program` to `interface`, or puts it into the link that is pinned at `pin`.
pub fn attach(
    program: &mut Xdp,
    interface: &str,
    wanted: AttachMode,
    pin: &Path,
    purpose: Purpose,
) -> Result<(Attached, FdLink), AttachError> {
    let (index, found) = look(interface, pin, purpose)?;
    let (stale, forced) = match found {
        Found::Ours => return replace(program, index, wanted, pin),
        Found::Free { stale } => (stale, None),
        Found::Forced { stale, present, name } => (stale, Some((present, name))),
    };
    if let Some(number) = stale {
        log::info!("interface {interface}: the link to interface number {number} is dropped");
        remove_link(pin)?;
    }
    if let Some((present, name)) = forced {
        log::warn!("interface {interface}: {name} (id {}) is taken off, as --force asks", present.program);
        takeover::free(index, present).map_err(|error| {
            AttachError::Other(format!("taking off the program of another instance failed: {error}"))
        })?;
    }
    let failed = |source| PinError::Io { path: pin.into(), action: "attaching", source };
    fault::point(Kind::Link).map_err(failed)?;
    let (link, mode, note) = attach_new(program, index, wanted)?;
    let failed = |source| PinError::Io { path: pin.into(), action: "pinning the link", source };
    fault::point(Kind::Pin).map_err(failed)?;
    let pinned = link.pin(pin).map_err(|error| AttachError::Other(format!("{}: {error}", pin.display())))?;
    Ok((Attached { index, mode, replaced: false, note }, pinned.into()))
}

/// The link that is pinned at `pin`; `None` when there is none. A link that is not an XDP link, or whose interface is gone,
/// has interface 0.
pub(crate) fn pinned(pin: &Path) -> Result<Option<sys::XdpLinkInfo>, AttachError> {
    if !pin.exists() {
        return Ok(None);
    }
    let failed = |source| PinError::Io { path: pin.into(), action: "asking for the link", source };
    let link: OwnedFd = sys::open_pin(pin).map_err(failed)?;
    let info = sys::xdp_link_info(link.as_fd()).map_err(failed)?;
    Ok(Some(info.unwrap_or(sys::XdpLinkInfo { program: 0, interface: 0 })))
}

/// Whether a link's interface is in our network namespace, or gone. Interface numbers are per namespace: an interface of ours
/// may have the number of another namespace's. So the link's program must be on it, too.
pub(crate) fn is_here(link: sys::XdpLinkInfo) -> Result<bool, AttachError> {
    if link.interface == 0 {
        return Ok(true);
    }
    match xdp_netlink::program_on(link.interface) {
        Ok(present) => Ok(present.is_some_and(|present| present.program == link.program)),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(false),
        Err(error) => Err(asking(&error)),
    }
}

fn asking(error: &io::Error) -> AttachError {
    AttachError::Other(format!("asking the kernel for its XDP program failed: {error}"))
}

pub(crate) fn present(index: u32) -> Result<Option<Present>, AttachError> {
    xdp_netlink::program_on(index).map_err(|error| asking(&error))
}

fn replace(
    program: &mut Xdp,
    index: u32,
    wanted: AttachMode,
    pin: &Path,
) -> Result<(Attached, FdLink), AttachError> {
    let error = |error: &dyn std::fmt::Display| AttachError::Replace(error.to_string());
    fault::point(Kind::Link).map_err(|e| error(&e))?;
    let link = PinnedLink::from_pin(pin).map_err(|e| error(&e))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|e| error(&e))?;
    let id = program.attach_to_link(link).map_err(|e| error(&e))?;
    let link = program.take_link(id).map_err(|e| error(&e))?;
    let link = FdLink::try_from(link).map_err(|e| error(&e))?;
    let mode = present(index)?.map_or(Mode::Native, |present| present.mode);
    let wanted = match wanted {
        AttachMode::Auto => None,
        AttachMode::Native => Some(Mode::Native),
        AttachMode::Generic => Some(Mode::Generic),
    };
    let note = match wanted {
        Some(wanted) if wanted != mode => Some(format!(
            "it runs in {} mode and changes to {} mode only when it is detached (`lbd --detach`) and started again",
            mode.name(),
            wanted.name()
        )),
        None if mode == Mode::Generic => Some("attached so by an agent before this one".to_owned()),
        _ => None,
    };
    Ok((Attached { index, mode, replaced: true, note }, link))
}

fn attach_new(
    program: &mut Xdp,
    index: u32,
    wanted: AttachMode,
) -> Result<(FdLink, Mode, Option<String>), AttachError> {
    if wanted != AttachMode::Generic {
        match attach_in(program, index, Mode::Native) {
            Ok(link) => return Ok((link, Mode::Native, None)),
            Err(AttachError::Refused { source, .. })
                if wanted == AttachMode::Auto && is_drivers_fault(&source) =>
            {
                let link = attach_in(program, index, Mode::Generic)?;
                let note = format!("the driver refuses native mode: {source}; expect a lower packet rate");
                return Ok((link, Mode::Generic, Some(note)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((attach_in(program, index, Mode::Generic)?, Mode::Generic, None))
}

/// Whether generic mode may work where native mode failed: not when we lack the privilege, or when the interface is gone or
/// taken.
fn is_drivers_fault(error: &io::Error) -> bool {
    use nix::libc::{EACCES, EBUSY, EEXIST, ENODEV, EPERM};
    !matches!(error.raw_os_error(), Some(EACCES | EBUSY | EEXIST | ENODEV | EPERM))
}

pub(crate) fn attach_in(program: &mut Xdp, index: u32, mode: Mode) -> Result<FdLink, AttachError> {
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let id = program
        .attach_to_if_index(index, flags)
        .map_err(|error| AttachError::Refused { mode, source: os_error(error) })?;
    let link = program.take_link(id).map_err(|error| AttachError::Other(error.to_string()))?;
    FdLink::try_from(link).map_err(|_| {
        // aya falls back to netlink where the kernel has no XDP links. Such an attachment cannot be pinned, and this
        // conversion neither returns the program nor takes it off: so we take it off here.
        match xdp_netlink::detach(index, mode) {
            Ok(()) => AttachError::NoLinks,
            Err(error) => {
                AttachError::Other(format!("{}; taking it off again failed: {error}", AttachError::NoLinks))
            }
        }
    })
}

/// The kernel's answer inside aya's error.
fn os_error(error: ProgramError) -> io::Error {
    let code = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    code.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}

fn program_name(id: u32) -> String {
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = program.and_then(|program| program.name_as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "without a name".to_owned())
}
