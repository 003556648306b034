//! Does another natgate serve this interface? An abstract Unix socket per interface tells: its name
//! is per network namespace and vanishes with the process, whatever ends it.

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
    sockopt::PeerCredentials,
};

use super::error::XskError;

/// The exclusive right to serve an interface, until dropped or the process ends.
#[derive(Debug)]
pub struct InterfaceLock {
    _listener: UnixListener,
}

impl InterfaceLock {
    /// Takes the lock of interface `name`.
    ///
    /// # Errors
    /// [`XskError::InUse`] with the holder's process id.
    pub fn acquire(ifindex: u32, name: &str) -> Result<Self, XskError> {
        let failed = |source| XskError::refused("lock the interface", name, &[], source);
        let address = address(ifindex).map_err(failed)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self { _listener: listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(XskError::InUse {
                interface: name.to_owned(),
                pid: holder(ifindex).unwrap_or_default(),
            }),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The process that serves the interface now, if any and if it can be known without waiting: nobody
/// accepts these connections, so that anyone on this host can fill the listener's backlog.
pub(super) fn holder(ifindex: u32) -> Option<i32> {
    let address = UnixAddr::new_abstract(name(ifindex).as_bytes()).ok()?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(socket.as_raw_fd(), &address).ok()?;
    Some(getsockopt(&socket, PeerCredentials).ok()?.pid())
}

fn address(ifindex: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name(ifindex))
}

fn name(ifindex: u32) -> String {
    format!("natgate/{ifindex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_backlog_makes_the_holder_unknown_and_holds_up_nothing() {
        // No interface has such an index.
        let ifindex = u32::MAX - std::process::id();
        assert_eq!(holder(ifindex), None);
        let lock = InterfaceLock::acquire(ifindex, "test").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(holder(ifindex), Some(own));
        let refused = InterfaceLock::acquire(ifindex, "test").unwrap_err();
        assert!(matches!(refused, XskError::InUse { pid, .. } if pid == own), "{refused}");
        // Connections count until they are accepted, also after their end.
        let most = 1 << 20;
        assert!((0..most).any(|_| holder(ifindex).is_none()), "the backlog has no end");
        let refused = InterfaceLock::acquire(ifindex, "test").unwrap_err();
        assert!(matches!(refused, XskError::InUse { pid: 0, .. }), "{refused}");
        drop(lock);
        assert!(InterfaceLock::acquire(ifindex, "test").is_ok());
    }
}
