//! How does one socket get bound to its queue?

use std::os::fd::RawFd;
use std::time::Duration;
use std::{error, io, thread};

use nix::libc;
use xsk_rs::config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{Socket, Umem};

use super::error::{XskError, missing_capability};
use super::open::{BindMode, OpenConfig, OpenInterface};
use super::port::Rings;

/// The kernel frees the queue of a process that was killed a moment after its end.
const BIND_ATTEMPTS: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// `CAP_NET_RAW`, if its lack explains the refusal.
pub(super) fn denied(source: &io::Error) -> Option<&'static str> {
    (source.raw_os_error() == Some(libc::EPERM)).then(|| missing_capability(&["CAP_NET_RAW"]))?
}

/// The kernel's error under one of xsk-rs.
pub(super) fn cause(error: &dyn error::Error) -> io::Error {
    let code = error.source().and_then(|source| source.downcast_ref::<io::Error>()?.raw_os_error());
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Binds a socket to `queue`; waits a little if a dead process still has it.
pub(super) fn bind_queue(
    config: &OpenConfig,
    interface: &OpenInterface,
    queue: u32,
    mode: BindMode,
    umem: &Umem,
) -> Result<Rings, XskError> {
    let name = &interface.name;
    let what = "open a socket";
    let wrong = |why: String| XskError::BadRequest {
        place: name.clone(),
        why,
        remedy: "`ip -br link` lists the interfaces",
    };
    let if_name = name.parse().map_err(|error| wrong(format!("{error}")))?;
    let ring = QueueSize::new(config.ring).map_err(|error| wrong(error.to_string()))?;
    let copy = match mode {
        BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        BindMode::Copy => BindFlags::XDP_COPY,
    };
    let socket = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let mut attempt = 0;
    loop {
        // SAFETY: no libxdp program is loaded (inhibited above), which is what the contract asks for.
        let result = unsafe { Socket::new(socket, umem, &if_name, queue) };
        let source = match result {
            Ok((transmit, receive, Some((fill, completion)))) => {
                return Ok((transmit, receive, fill, completion));
            }
            Ok(_) => return Err(wrong("the interface is named twice".into())),
            Err(error) => cause(&error),
        };
        match source.raw_os_error() {
            Some(libc::EBUSY) if attempt < BIND_ATTEMPTS => {
                attempt += 1;
                thread::sleep(BIND_PAUSE); // there is no event to wait for
            }
            Some(libc::EBUSY) => {
                return Err(XskError::QueueBusy { interface: name.clone(), queue });
            }
            Some(libc::ENODEV) => return Err(XskError::UnknownInterface { name: name.clone() }),
            Some(libc::EOPNOTSUPP | libc::EINVAL) if mode == BindMode::ZeroCopy => {
                return Err(XskError::NoZeroCopy { interface: name.clone(), queue, source });
            }
            _ => return Err(XskError::refused(what, name, &["CAP_NET_RAW"], source)),
        }
    }
}

/// Lets one system call send so many frames in copy mode, where the kernel offers that (Linux 6.17); it stops after 32
/// otherwise, and the worker calls again.
pub(super) fn send_at_once(socket: RawFd, frames: u32) {
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    let size = size_of_val(&frames) as libc::socklen_t;
    // SAFETY: the option's value is an unsigned int, and `frames` is one.
    let _refused = unsafe {
        let value = (&raw const frames).cast();
        libc::setsockopt(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, value, size)
    };
}

/// Lets system calls of the worker run the driver's receive loop.
pub(super) fn busy_poll(socket: RawFd) -> io::Result<()> {
    /// Microseconds, of which any number above 0 will do: our calls don't wait.
    const DURATION: libc::c_int = 20;
    const BUDGET: libc::c_int = 64;
    const SO_PREFER_BUSY_POLL: libc::c_int = 69;
    const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
    let options =
        [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, DURATION), (SO_BUSY_POLL_BUDGET, BUDGET)];
    for (option, value) in options {
        let size = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the option's value is an int, and `value` is one.
        let code = unsafe {
            libc::setsockopt(socket, libc::SOL_SOCKET, option, (&raw const value).cast(), size)
        };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
