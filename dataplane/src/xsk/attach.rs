//! How does a program stay attached after its process is gone?
//!
//! By netlink (libbpf's `bpf_xdp_attach`): the interface itself holds the program. A BPF link, as
//! aya makes, ends with the process, and pinning it needs a BPF file system that outlives the mount
//! namespace. See `docs/decisions/0001-netlink-attachment.md`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::programs::{ProgramInfo, loaded_programs};
use libbpf_sys::{
    XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, XDP_FLAGS_UPDATE_IF_NOEXIST, bpf_xdp_attach,
    bpf_xdp_attach_opts, bpf_xdp_query, bpf_xdp_query_opts,
};
use nix::net::if_::if_indextoname;

use super::error::{XskError, missing_capability};
use super::lock::holder;
use super::nic;
use super::steering::PROGRAM;

/// Largest MTU at which every driver that puts a packet into one page takes a program.
pub(super) const MOST_IN_A_PAGE: u32 = 3498;

/// Where in the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack, after the kernel has built its packet.
    Generic,
}

impl AttachMode {
    /// `native` or `generic`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// What an interface's XDP hook holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// Nothing.
    None,
    /// natgate's program.
    Ours {
        /// Id of the program.
        id: u32,
        /// Where it is attached.
        mode: AttachMode,
        /// The natgate that serves it, as process id; without one its traffic is dropped.
        process: Option<i32>,
    },
    /// Another program.
    Foreign {
        /// Id of the program.
        id: u32,
        /// Its name; `?` if it vanished meanwhile.
        name: String,
    },
}

/// Looks at the XDP hook of an interface.
///
/// # Errors
/// When the kernel can't be asked (to name an attached program takes `CAP_SYS_ADMIN`), or there is no
/// such interface.
pub fn inspect(ifindex: u32, interface: &str) -> Result<Inspection, XskError> {
    let mut found = glance(ifindex, interface)?;
    if let Inspection::Ours { process, .. } = &mut found {
        *process = holder(ifindex);
    }
    Ok(found)
}

/// The same, without asking which process serves the interface: for who looks often, since every question
/// waits in the backlog of that process's lock.
///
/// # Errors
/// When the kernel can't be asked, or there is no such interface.
pub fn glance(ifindex: u32, interface: &str) -> Result<Inspection, XskError> {
    let Some((id, mode)) = query(ifindex, interface)? else { return Ok(Inspection::None) };
    Ok(match program(id) {
        Some(info) if info.name() == PROGRAM.as_bytes() => {
            Inspection::Ours { id, mode, process: None }
        }
        None if missing_capability(&["CAP_SYS_ADMIN"]).is_some() => {
            return Err(XskError::MissingCapability {
                what: "identify the XDP program that is attached",
                place: interface.to_owned(),
                capability: "CAP_SYS_ADMIN",
            });
        }
        info => {
            let name = info.and_then(|info| info.name_as_str().map(str::to_owned));
            Inspection::Foreign { id, name: name.unwrap_or_else(|| "?".into()) }
        }
    })
}

/// Removes natgate's program from an interface: from then on the kernel sees everything. False if
/// there was none. The caller holds the [`InterfaceLock`](super::InterfaceLock).
///
/// # Errors
/// [`XskError::HookBusy`] if the program is another's.
pub fn detach(ifindex: u32, interface: &str) -> Result<bool, XskError> {
    match glance(ifindex, interface)? {
        Inspection::None => Ok(false),
        Inspection::Foreign { id, name } => {
            Err(XskError::HookBusy { interface: interface.to_owned(), name, id })
        }
        Inspection::Ours { id, mode, .. } => {
            set(ifindex, interface, None, Some(id), mode)?;
            Ok(true)
        }
    }
}

/// Attaches `program`, in place of a program of a natgate that is gone if there is one; returns
/// the id of that. At no moment is the hook empty in between.
pub(super) fn attach(
    ifindex: u32,
    interface: &str,
    program: BorrowedFd<'_>,
    mode: AttachMode,
) -> Result<Option<u32>, XskError> {
    let old = match glance(ifindex, interface)? {
        Inspection::None => None,
        Inspection::Foreign { id, name } => {
            return Err(XskError::HookBusy { interface: interface.to_owned(), name, id });
        }
        Inspection::Ours { mode: attached, .. } if attached != mode => {
            return Err(XskError::ModeDiffers {
                interface: interface.to_owned(),
                attached: attached.name(),
            });
        }
        Inspection::Ours { id, .. } => Some(id),
    };
    set(ifindex, interface, Some(program), old, mode)?;
    Ok(old)
}

/// One exchange of programs: the kernel refuses it if the hook does not hold `old`.
fn set(
    ifindex: u32,
    interface: &str,
    new: Option<BorrowedFd<'_>>,
    old: Option<u32>,
    mode: AttachMode,
) -> Result<(), XskError> {
    let what =
        if new.is_some() { "attach the steering program" } else { "detach the steering program" };
    let failed =
        |source| XskError::refused(what, interface, &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"], source);
    let old = match old {
        Some(id) => {
            let gone = || io::Error::from(io::ErrorKind::NotFound);
            let info = self::program(id).ok_or_else(|| failed(gone()))?;
            Some(info.fd().map_err(|error| failed(io::Error::other(error)))?)
        }
        None => None,
    };
    let mut options = bpf_xdp_attach_opts::default();
    options.sz = size_of_val(&options) as _;
    options.old_prog_fd = old.as_ref().map_or(0, |fd| fd.as_fd().as_raw_fd());
    let flags = mode.flag() | if old.is_none() { XDP_FLAGS_UPDATE_IF_NOEXIST } else { 0 };
    let new = new.map_or(-1, |fd| fd.as_raw_fd());
    // SAFETY: both descriptors are open for the length of the call, and `options` states its size.
    let code = unsafe { bpf_xdp_attach(ifindex.cast_signed(), new, flags, &raw const options) };
    if code == 0 {
        return Ok(());
    }
    if -code == nix::libc::ENODEV {
        return Err(XskError::UnknownInterface { name: interface.to_owned() });
    }
    let source = io::Error::from_raw_os_error(-code);
    // veth says that its packets are too long, others only that they won't.
    let too_long = -code == nix::libc::ERANGE
        || -code == nix::libc::EINVAL
            && nic::mtu(interface).is_some_and(|mtu| mtu > MOST_IN_A_PAGE);
    if new >= 0 && mode == AttachMode::Native && too_long {
        let driver = nic::driver(interface);
        return Err(XskError::MtuTooLarge { interface: interface.to_owned(), driver });
    }
    let unsupported = [nix::libc::EOPNOTSUPP, nix::libc::EINVAL, nix::libc::ENOTSUP];
    if new >= 0 && mode == AttachMode::Native && unsupported.contains(&-code) {
        let driver = nic::driver(interface);
        return Err(XskError::NoNativeMode { interface: interface.to_owned(), driver, source });
    }
    Err(failed(source))
}

/// Id and mode of the attached program.
fn query(ifindex: u32, interface: &str) -> Result<Option<(u32, AttachMode)>, XskError> {
    let mut options = bpf_xdp_query_opts::default();
    options.sz = size_of_val(&options) as _;
    // SAFETY: `options` is a valid, exclusive place that states its size.
    let code = unsafe { bpf_xdp_query(ifindex.cast_signed(), 0, &raw mut options) };
    match -code {
        0 if options.skb_prog_id != 0 => Ok(Some((options.skb_prog_id, AttachMode::Generic))),
        0 if options.drv_prog_id != 0 => Ok(Some((options.drv_prog_id, AttachMode::Native))),
        0 if options.hw_prog_id != 0 => Ok(Some((options.hw_prog_id, AttachMode::Native))),
        // Before Linux 6.3 it says the same of interfaces that there are none of; and nix has an empty name for those.
        0 if if_indextoname(ifindex).map_or(true, |name| name.is_empty()) => {
            Err(XskError::UnknownInterface { name: interface.to_owned() })
        }
        0 => Ok(None),
        nix::libc::ENODEV | nix::libc::ENXIO => {
            Err(XskError::UnknownInterface { name: interface.to_owned() })
        }
        error => {
            let source = io::Error::from_raw_os_error(error);
            Err(XskError::refused("look at the XDP hook", interface, &["CAP_NET_ADMIN"], source))
        }
    }
}

/// A loaded program by id.
pub(super) fn program(id: u32) -> Option<ProgramInfo> {
    loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)
}
