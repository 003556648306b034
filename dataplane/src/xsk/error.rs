//! What can go wrong with AF_XDP, in the operator's words: `<what> (<where>): <why>; <what to do>`.

use std::io;

use thiserror::Error;

use super::attach::MOST_IN_A_PAGE;
use super::open::LONGEST;

/// Why sockets or the steering program can't be set up.
#[derive(Debug, Error)]
pub enum XskError {
    /// The process may not do this.
    #[error(
        "cannot {what} ({place}): the capability {capability} is missing; run as root, or grant it \
         (systemd: AmbientCapabilities={capability})"
    )]
    MissingCapability {
        /// The operation.
        what: &'static str,
        /// Interface or kernel object.
        place: String,
        /// Such as `CAP_NET_RAW`.
        capability: &'static str,
    },
    /// No such interface here.
    #[error(
        "unknown interface ({name}): it does not exist in this network namespace; \
         `ip -br link` lists those that do"
    )]
    UnknownInterface {
        /// As given.
        name: String,
    },
    /// The UMEM could not be locked in memory.
    #[error(
        "cannot register packet memory ({mebibytes} MiB): {source}; raise RLIMIT_MEMLOCK \
         (systemd: LimitMEMLOCK=infinity), grant CAP_IPC_LOCK, or use smaller rings or fewer queues"
    )]
    MemoryLock {
        /// Size wanted.
        mebibytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another XDP program holds the hook.
    #[error(
        "XDP hook busy ({interface}): program `{name}` (id {id}) is attached; if nothing needs it, \
         remove it with `ip link set dev {interface} xdp off`"
    )]
    HookBusy {
        /// The interface.
        interface: String,
        /// Name of the program, or `?` if it can't be read.
        name: String,
        /// Its id.
        id: u32,
    },
    /// Our own program is attached in another mode, and a change would leave a gap.
    #[error(
        "XDP mode differs ({interface}): a natgate before this one attached its program in {attached} \
         mode, and changing that would let pods' packets pass untranslated for a moment; start with the \
         mode it had, or stop the traffic and run `natgate detach {interface}`"
    )]
    ModeDiffers {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        attached: &'static str,
    },
    /// The driver can't run XDP programs.
    #[error(
        "no native XDP ({interface}): the driver {driver} refused it ({source}); \
         `--mode generic` works with any driver, more slowly"
    )]
    NoNativeMode {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Zero-copy was demanded and the driver can't.
    #[error(
        "no zero-copy ({interface} queue {queue}): the driver refused it ({source}); use `--mode auto` or `--mode copy`, \
         or, if the driver has no native XDP, `--mode generic`"
    )]
    NoZeroCopy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another AF_XDP socket is bound to the queue.
    #[error(
        "queue busy ({interface} queue {queue}): another AF_XDP socket is bound to it; \
         find its process with `ss --xdp -p`, or serve other interfaces"
    )]
    QueueBusy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Another natgate serves the interface.
    #[error(
        "interface in use ({interface}): natgate with process id {pid} serves it; \
         stop that one first"
    )]
    InUse {
        /// The interface.
        interface: String,
        /// Who holds it; 0 if it is in a process namespace that can't be seen from here.
        pid: i32,
    },
    /// The caller's numbers don't fit.
    #[error("cannot serve ({place}): {why}; {remedy}")]
    BadRequest {
        /// Interface or option.
        place: String,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The kernel refused the program or a map.
    #[error(
        "cannot {what} (steering program): {why}; natgate needs Linux 5.15 or later with BPF and XSKMAP"
    )]
    Bpf {
        /// The operation.
        what: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// The driver takes programs only where packets fit one page.
    #[error(
        "MTU too large ({interface}): the driver {driver} takes no XDP program at it; `ip link set {interface} mtu \
         {MOST_IN_A_PAGE}` (of a veth the other end's too), or --mode generic, where packets above {LONGEST} bytes are \
         dropped"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
    },
    /// Any other refusal of the kernel.
    #[error("cannot {what} ({place}): {source}; see `dmesg` for what the kernel says about it")]
    Kernel {
        /// The operation.
        what: &'static str,
        /// Interface or kernel object.
        place: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Effective capabilities that natgate may need, by bit number in `CapEff`.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// The first of `wanted` that this process lacks.
pub(super) fn missing_capability(wanted: &[&'static str]) -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(line.trim(), 16).ok()?;
    wanted.iter().copied().find(|name| {
        CAPABILITIES.iter().any(|(known, bit)| known == name && effective & (1 << bit) == 0)
    })
}

impl XskError {
    /// `source` as the missing one of `capabilities` if that is what it means, else as it is.
    pub(super) fn refused(
        what: &'static str,
        place: &str,
        capabilities: &[&'static str],
        source: io::Error,
    ) -> Self {
        let place = place.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied
            && let Some(capability) = missing_capability(capabilities)
        {
            return Self::MissingCapability { what, place, capability };
        }
        Self::Kernel { what, place, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver that refuses zero-copy may have no native XDP at all: every mode that may work is named.
    #[test]
    fn without_zero_copy_every_other_mode_is_named() {
        let source = io::Error::from_raw_os_error(95);
        let told =
            XskError::NoZeroCopy { interface: "int".to_owned(), queue: 0, source }.to_string();
        for mode in ["auto", "copy", "generic"] {
            assert!(told.contains(&format!("`--mode {mode}`")), "{told}");
        }
    }
}
