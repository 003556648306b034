//! How does a test wait for something without guessing how long it takes?

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How many times longer than it says may be waited.
static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// From now on everything may take `times` as long: where the gateway is a machine that is emulated.
pub fn be_patient(times: u32) {
    PATIENCE.store(times, Ordering::Relaxed);
}

/// Polls `ready` every 10 ms until it yields a value; `what` names it in the error after `limit`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * PATIENCE.load(Ordering::Relaxed));
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
