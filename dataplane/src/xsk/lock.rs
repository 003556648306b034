//! Does another natgate serve this interface? An abstract Unix socket per interface tells: its name
//! is per network namespace and vanishes with the process, whatever ends it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

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

/// The process that serves the interface now, if any.
pub(super) fn holder(ifindex: u32) -> Option<i32> {
    let stream = UnixStream::connect_addr(&address(ifindex).ok()?).ok()?;
    Some(getsockopt(&stream, PeerCredentials).ok()?.pid())
}

fn address(ifindex: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("natgate/{ifindex}"))
}
