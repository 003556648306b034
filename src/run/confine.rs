//! What may natgate still do once it runs? No more than it needs.
//!
//! Two fences beside those of the service manager. System calls: a filter for the whole process, and a narrow one for
//! each worker, which reads what strangers send. Capabilities: those that natgate needs to heal itself stay with the
//! control thread; every other thread has none.

use std::collections::BTreeMap;

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};
use nix::libc::{self, c_long};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tracing::warn;

use crate::cli::Seccomp;

/// System calls with their names, and why natgate makes them.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// For `docs/reference.md`.
    #[cfg_attr(not(test), expect(dead_code))]
    pub(crate) why: &'static str,
    pub(crate) calls: &'static [(c_long, &'static str)],
}

macro_rules! groups {
    ($($why:literal: $($call:ident)+;)+) => {
        &[$(Group { why: $why, calls: &[$((libc::$call, stringify!($call))),+] }),+]
    };
}

/// What a worker may ask of the kernel.
pub(crate) const WORKER: &[Group] = groups! {
    "tell the kernel that packets are ready, and fetch new ones": SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg;
    "sleep until packets, or another worker, wake it": SYS_ppoll SYS_read SYS_write SYS_sched_yield;
    "wait for a lock of the control plane's channels, never on a packet's way": SYS_futex;
    "tables and lists that grow": SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk;
    "read the time where the kernel has no page for it": SYS_clock_gettime SYS_clock_nanosleep SYS_nanosleep;
    "seeds of hash tables": SYS_getrandom;
    "signals that arrive at this thread": SYS_rt_sigreturn SYS_rt_sigprocmask SYS_sigaltstack SYS_restart_syscall;
    "counters of the interfaces' sockets; give them back": SYS_getsockopt SYS_close;
    "end, in order or by a panic": SYS_exit SYS_exit_group SYS_gettid SYS_getpid SYS_tgkill SYS_rt_sigaction
        SYS_writev SYS_set_robust_list SYS_rseq;
};

/// Older names of the same, which only this architecture has.
#[cfg(target_arch = "x86_64")]
pub(crate) const WORKER_OLDER: &[Group] = groups! {
    "older name of a call above, which the library uses": SYS_poll;
};
/// Older names of the same, which only x86 has.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const WORKER_OLDER: &[Group] = &[];

/// What the process may ask of the kernel, beside what its workers may.
pub(crate) const CONTROL: &[Group] = groups! {
    "stats socket, metrics, netlink, exporters, the service manager": SYS_socket SYS_socketpair SYS_bind SYS_listen
        SYS_accept SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername SYS_setsockopt SYS_shutdown
        SYS_sendmmsg SYS_recvmmsg;
    "programs and maps of the steering": SYS_bpf;
    "ask drivers about queues and rings, and terminals for their width": SYS_ioctl;
    "wait for all of these": SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
        SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4 SYS_pselect6;
    "configuration, journals, state and logs": SYS_openat SYS_openat2 SYS_readv SYS_pread64 SYS_preadv SYS_preadv2
        SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_lseek SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs
        SYS_getdents64 SYS_readlinkat SYS_faccessat SYS_faccessat2 SYS_ftruncate SYS_fallocate SYS_fsync
        SYS_fdatasync SYS_sync_file_range SYS_renameat SYS_renameat2 SYS_unlinkat SYS_mkdirat SYS_linkat SYS_flock
        SYS_fcntl SYS_fchmod SYS_fchmodat SYS_umask SYS_getcwd SYS_chdir SYS_copy_file_range SYS_sendfile
        SYS_fadvise64 SYS_utimensat SYS_dup SYS_dup3 SYS_pipe2 SYS_memfd_create SYS_close_range;
    "notice changed files": SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch;
    "start workers and helpers, pin them, and end them": SYS_clone SYS_clone3 SYS_execve SYS_wait4 SYS_waitid
        SYS_kill SYS_prctl SYS_set_tid_address SYS_get_robust_list SYS_sched_getaffinity SYS_sched_setaffinity
        SYS_sched_getparam SYS_sched_getscheduler SYS_getpriority SYS_membarrier SYS_pidfd_open
        SYS_pidfd_send_signal SYS_setsid SYS_setpgid SYS_getpgid SYS_tkill;
    "who and where it is": SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups SYS_getresuid SYS_getresgid
        SYS_getppid SYS_uname SYS_sysinfo SYS_getcpu SYS_times SYS_getrusage SYS_gettimeofday
        SYS_clock_getres SYS_rt_sigpending SYS_rt_sigtimedwait SYS_rt_sigsuspend;
    "memory for packets, locked and in huge pages": SYS_mlock SYS_mlock2 SYS_munlock SYS_mincore SYS_msync
        SYS_prlimit64 SYS_getrlimit SYS_get_mempolicy SYS_mbind SYS_set_mempolicy;
    "give capabilities up, and narrow the filter": SYS_capget SYS_capset SYS_seccomp;
};

/// Older names of the same, which only this architecture has.
#[cfg(target_arch = "x86_64")]
pub(crate) const OLDER: &[Group] = groups! {
    "older names of calls above, which libraries use": SYS_arch_prctl SYS_select SYS_epoll_wait
        SYS_epoll_create SYS_eventfd SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_rename SYS_unlink
        SYS_mkdir SYS_rmdir SYS_chmod SYS_link SYS_pipe SYS_dup2 SYS_fork SYS_vfork SYS_getpgrp SYS_getdents
        SYS_time SYS_inotify_init SYS_alarm SYS_pause;
};
/// Older names of the same, which only x86 has.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const OLDER: &[Group] = &[];

/// What the control thread keeps, as far as it has it: programs and sockets are made anew when an interface is. Files
/// of other users stay readable to whoever could read them at the start.
const KEPT: &[Capability] = &[
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_BPF,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Confines the process; before any other thread is there.
pub(super) fn process(seccomp: Seccomp) -> anyhow::Result<()> {
    let kept: CapsHashSet = KEPT.iter().copied().collect();
    // Without the right to (CAP_SETPCAP) it stays; it only says what programs that natgate starts may get.
    let bounding = caps::read(None, CapSet::Bounding).unwrap_or_default();
    for surplus in bounding.difference(&kept) {
        let _ = caps::drop(None, CapSet::Bounding, *surplus);
    }
    keep(&kept).context("cannot give capabilities up")?;
    let groups = WORKER.iter().chain(WORKER_OLDER).chain(CONTROL).chain(OLDER);
    apply(groups, seccomp)
        .context("cannot confine the process (seccomp); --seccomp off does without")
}

/// Confines a worker's thread, for good.
pub(super) fn worker(seccomp: Seccomp) {
    powerless();
    if let Err(error) = apply(WORKER.iter().chain(WORKER_OLDER), seccomp) {
        warn!("a worker runs without its own filter of system calls (seccomp): {error:#}");
    }
}

/// Takes every capability from the calling thread but that to write files of other users, if it had it.
pub(crate) fn writer() {
    let kept = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH];
    if let Err(error) = keep(&kept.into_iter().collect()) {
        warn!("a thread keeps capabilities that it does not need: {error:#}");
    }
}

/// Takes every capability from the calling thread.
pub(crate) fn powerless() {
    if let Err(error) = keep(&CapsHashSet::new()) {
        warn!("a thread keeps capabilities that it does not need: {error:#}");
    }
}

fn keep(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    let has = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = has.intersection(kept).copied().collect();
    let effective = caps::read(None, CapSet::Effective)?;
    let effective: CapsHashSet = effective.intersection(&left).copied().collect();
    caps::set(None, CapSet::Effective, &effective)?;
    caps::set(None, CapSet::Permitted, &left)
}

fn apply<'a>(groups: impl Iterator<Item = &'a Group>, seccomp: Seccomp) -> anyhow::Result<()> {
    let refusal = match seccomp {
        Seccomp::Off => return Ok(()),
        Seccomp::Log => SeccompAction::Log,
        // As on a kernel that has no such call: libraries know what to do then.
        Seccomp::Enforce => SeccompAction::Errno(libc::ENOSYS as u32),
    };
    let calls = groups.flat_map(|group| group.calls);
    let allowed: BTreeMap<i64, Vec<_>> = calls.map(|(number, _)| (*number, vec![])).collect();
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(allowed, refusal, SeccompAction::Allow, arch)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `look` finds on a thread of its own that was confined first.
    fn confined<T: Send>(confine: fn(), look: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                confine();
                look()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn a_worker_cannot_open_files_nor_sockets_nor_start_programs() {
        let open = || std::fs::File::open("/etc/hostname").err().and_then(|e| e.raw_os_error());
        let connect =
            || std::net::UdpSocket::bind("127.0.0.1:0").err().and_then(|e| e.raw_os_error());
        let run = || std::process::Command::new("/bin/true").status().is_ok();
        assert_eq!((open(), connect(), run()), (None, None, true));
        let enforce = || worker(Seccomp::Enforce);
        let refused = Some(libc::ENOSYS);
        let seen = confined(enforce, || (open(), connect(), run()));
        assert_eq!(seen, (refused, refused, false));
        assert_eq!(confined(|| worker(Seccomp::Log), open), None);
        assert_eq!(confined(|| worker(Seccomp::Off), open), None);
    }

    #[test]
    fn a_worker_still_allocates_waits_and_tells_the_time() {
        let works = || {
            let large: usize = (0..64).map(|i| vec![1_u8; 1 << (10 + i % 14)].len()).sum();
            std::thread::sleep(std::time::Duration::from_millis(1));
            let (tx, rx) = crossbeam::channel::bounded(1);
            let sent = tx.send(1).is_ok() && rx.recv() == Ok(1);
            let patience = rx.recv_timeout(std::time::Duration::from_millis(1)).is_err();
            large > 0 && sent && patience
        };
        assert!(confined(|| worker(Seccomp::Enforce), works));
    }

    #[test]
    fn the_process_can_do_its_work_but_not_take_the_host_over() {
        let look = || {
            let file = std::fs::read_to_string("/proc/self/status").is_ok();
            let socket = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
            let ends = std::process::Command::new("/bin/true").status().is_ok_and(|s| s.success());
            let mount = nix::unistd::chroot("/").err();
            (file, socket, ends, mount)
        };
        let seen = confined(|| process(Seccomp::Enforce).unwrap(), look);
        assert_eq!(seen, (true, true, true, Some(nix::Error::ENOSYS)));
    }

    #[test]
    fn capabilities_are_gone_for_good() {
        let held = |set| caps::read(None, set).unwrap();
        let none = confined(powerless, || (held(CapSet::Effective), held(CapSet::Permitted)));
        assert_eq!(none, (CapsHashSet::new(), CapsHashSet::new()));
        let refused =
            confined(powerless, || caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN));
        assert!(refused.is_err());
        let kept: CapsHashSet = KEPT.iter().copied().collect();
        let left = confined(|| process(Seccomp::Off).unwrap(), || held(CapSet::Permitted));
        assert!(left.is_subset(&kept), "{left:?}");
        assert!(left.contains(&Capability::CAP_NET_ADMIN), "tests run as root");
    }

    #[test]
    fn no_call_is_listed_twice_and_all_give_reasons() {
        let groups = || WORKER.iter().chain(WORKER_OLDER).chain(CONTROL).chain(OLDER);
        let mut names: Vec<&str> =
            groups().flat_map(|it| it.calls).map(|(_, name)| *name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(groups().all(|it| !it.why.is_empty() && !it.calls.is_empty()));
    }
}
