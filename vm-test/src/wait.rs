//! How does a test wait for something without guessing how long it takes?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Polls `ready` every 10 ms until it yields a value; `what` names it in the error after `limit`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
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
