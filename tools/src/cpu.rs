//! How much processor time does it cost?

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time of this process so far: user and system.
pub fn of_process() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs()
    };
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

/// Processor time of the whole machine so far: everything but idle and waiting for input, all cores,
/// from the first line of `/proc/stat`; interrupts and stolen time included. Resolution: one tick.
pub fn of_machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("error: /proc/stat: it can't be read")?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100).unsigned_abs();
    Ok(Duration::from_millis(busy_ticks(&stat) * 1000 / ticks))
}

/// Busy ticks in the first line of a `/proc/stat`: user, nice, system, irq, softirq and steal.
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
    fields.enumerate().filter(|(at, _)| matches!(at, 0..=2 | 5..=7)).map(|(_, ticks)| ticks).sum()
}

#[cfg(test)]
mod tests {
    use super::busy_ticks;

    #[test]
    fn idle_waiting_and_guests_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 32 1000 1000\ncpu0 9 9"), 63);
    }
}
