//! How does one worker stand still while the rest of natgate goes on? As under a debugger.

use std::fs;

use anyhow::{Result, bail};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// A thread that a debugger holds; it goes on when dropped, or the end of its process would wait for it. Only the thread
/// that made it may drop it.
#[derive(Debug)]
pub struct Halted(Pid);

impl Halted {
    /// Halts the worker `number` of the natgate with the process id `process`.
    pub fn worker(process: u32, number: usize) -> Result<Self> {
        let name = format!("natgate-w{number}");
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim() == name {
                let thread = Pid::from_raw(task.file_name().to_string_lossy().parse()?);
                ptrace::attach(thread)?;
                let halted = Self(thread);
                waitpid(thread, Some(WaitPidFlag::__WALL))?;
                return Ok(halted);
            }
        }
        bail!("no thread is called {name}")
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // If the thread has ended, nobody waits.
        let _ = ptrace::detach(self.0, None);
    }
}
