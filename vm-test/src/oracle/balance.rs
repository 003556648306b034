//! Oracle (e): is every packet that came in accounted for exactly once?

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::{Gateway, wait};

/// Waits until the workers' counters balance (packets may be in flight when asked) and something
/// was counted at all.
pub fn settled(natgate: &Gateway) -> Result<()> {
    let mut last = String::new();
    let found = wait::until("balanced counters", Duration::from_secs(15), || {
        match check(&natgate.json(&["workers"])?) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = error.to_string();
                Ok(None)
            }
        }
    });
    if found.is_err() {
        bail!("oracle e: {last}");
    }
    Ok(())
}

/// Received + taken over = forwarded + answered + handed over + dropped + held, for each worker;
/// what one hands over another takes over, once everything has come to rest. What natgate sends about a
/// packet that it dropped is no part of it.
pub fn check(workers: &[Value]) -> Result<()> {
    let field = |row: &Value, name: &str| {
        row[name].as_u64().ok_or_else(|| anyhow::anyhow!("no field {name} in {row}"))
    };
    let (mut received, mut handed, mut taken) = (0, 0, 0);
    for row in workers {
        let into = field(row, "received")? + field(row, "taken_over")?;
        let mut out = row["held"].as_u64().unwrap_or(0);
        for name in ["forwarded", "answered", "handed_over", "dropped"] {
            out += field(row, name)?;
        }
        ensure!(into == out, "{into} packets came to a worker and {out} left it: {row}");
        received += field(row, "received")?;
        handed += field(row, "handed_over")?;
        taken += field(row, "taken_over")?;
    }
    ensure!(handed == taken, "{handed} packets were handed over and {taken} taken over");
    ensure!(received > 0, "no worker received a packet");
    Ok(())
}
