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
///
/// Any process in the network namespace can take the name. One of another user is no natgate, and keeps nobody out: then
/// the kernel alone sees to it that no two serve an interface, as it allows one `AF_XDP` socket for each queue.
#[derive(Debug)]
pub struct InterfaceLock {
    listener: Option<UnixListener>,
}

/// Who has the name of an interface's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// A process that may be natgate, by its id.
    Natgate(i32),
    /// A process of another user, or one that does not answer: no natgate.
    Stranger,
    /// Too many have asked.
    Unknown,
}

impl InterfaceLock {
    /// Takes the lock of interface `name`.
    ///
    /// # Errors
    /// [`XskError::InUse`] with the holder's process id.
    pub fn acquire(ifindex: u32, name: &str) -> Result<Self, XskError> {
        let failed = |source| XskError::refused("lock the interface", name, &[], source);
        let address = address(ifindex).map_err(failed)?;
        // Whoever ended between two questions is asked for no third time.
        for _ in 0..3 {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(Self { listener: Some(listener) }),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(failed(error));
                }
                Err(_) => {}
            }
            if let Holder::Natgate(pid) = ask(ifindex) {
                return Err(XskError::InUse { interface: name.to_owned(), pid });
            }
        }
        tracing::warn!(
            interface = name,
            "the lock @natgate/{ifindex} is held by a process that is no natgate of this user, and is ignored; \
             `ss -xlp` may show it"
        );
        Ok(Self { listener: None })
    }

    /// The same, but only if it is known that no natgate has it.
    ///
    /// # Errors
    /// [`XskError::InUse`], with 0 if the holder is unknown.
    pub fn acquire_surely(ifindex: u32, name: &str) -> Result<Self, XskError> {
        let lock = Self::acquire(ifindex, name)?;
        if lock.listener.is_none() && ask(ifindex) == Holder::Unknown {
            return Err(XskError::InUse { interface: name.to_owned(), pid: 0 });
        }
        Ok(lock)
    }
}

/// The process that serves the interface now, if any and if it can be known without waiting.
pub(super) fn holder(ifindex: u32) -> Option<i32> {
    match ask(ifindex) {
        Holder::Natgate(pid) => Some(pid),
        Holder::Stranger | Holder::Unknown => None,
    }
}

/// Without waiting: nobody accepts these connections, so that anyone on this host can fill the listener's backlog.
fn ask(ifindex: u32) -> Holder {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asked = || {
        let address = UnixAddr::new_abstract(name(ifindex).as_bytes())?;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &address)?;
        getsockopt(&socket, PeerCredentials)
    };
    let own = nix::unistd::geteuid().as_raw();
    match asked() {
        Ok(peer) if [0, own].contains(&peer.uid()) => Holder::Natgate(peer.pid()),
        Err(nix::errno::Errno::EAGAIN) => Holder::Unknown,
        Ok(_) | Err(_) => Holder::Stranger,
    }
}

fn address(ifindex: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name(ifindex))
}

fn name(ifindex: u32) -> String {
    format!("natgate/{ifindex}")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

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
        let refused = InterfaceLock::acquire_surely(ifindex, "test").unwrap_err();
        assert!(matches!(refused, XskError::InUse { pid: 0, .. }), "{refused}");
        // The kernel allows no second socket for a queue; whoever fills a backlog must keep no start back.
        assert!(InterfaceLock::acquire(ifindex, "test").is_ok());
        drop(lock);
        assert!(InterfaceLock::acquire(ifindex, "test").is_ok());
    }
    #[test]
    fn bug_a_process_of_another_user_kept_natgate_from_starting() {
        let ifindex = u32::MAX - 1 - std::process::id();
        let name = name(ifindex);
        // As nobody, it takes the name and listens.
        let program = format!(
            "import socket,time\ns=socket.socket(socket.AF_UNIX)\ns.bind('\\0{name}')\ns.listen()\nprint('held',flush=True)\ntime.sleep(60)"
        );
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", &program]);
        let mut squatter = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 4];
        squatter.stdout.take().unwrap().read_exact(&mut said).unwrap();
        assert_eq!((&said, ask(ifindex), holder(ifindex)), (b"held", Holder::Stranger, None));
        let started = InterfaceLock::acquire(ifindex, "test");
        let detached = InterfaceLock::acquire_surely(ifindex, "test");
        squatter.kill().unwrap();
        squatter.wait().unwrap();
        assert!(started.is_ok() && detached.is_ok(), "{started:?} {detached:?}");
    }
}
