//! How much memory does a session take, and how long does the longest turn last while the table grows?

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::level2::sessions::{Rig, Story};

/// Bytes of a page of `/proc/self/statm`.
const PAGE: u64 = 4_096;

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Live sessions.
    pub live: u64,
    /// Bytes a session, part by part, as the tables count themselves.
    pub parts: Vec<(String, f64)>,
    /// Bytes a session by which the process grew while they were opened.
    pub resident: f64,
    /// Nanoseconds a session while the table grew.
    pub nanoseconds: f64,
    /// The longest turn, microseconds.
    pub longest_turn: f64,
}

impl Memory {
    /// The sum of the parts.
    pub fn counted(&self) -> f64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

fn resident() -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages: u64 =
        statm.split(' ').nth(1).and_then(|field| field.parse().ok()).context("statm")?;
    Ok(pages * PAGE)
}

/// Opens `live` sessions, which is as many as there may be but for an eighth, and looks at what they take.
pub fn measure(story: Story, live: u32) -> Result<Memory> {
    let mut rig = Rig::new(story, live)?;
    let before = resident()?;
    rig.run_until(story, u64::from(live) * 99 / 100)?;
    let grown = resident()? - before;
    let nat = rig.gateway.workers[0].nat();
    let (memory, sessions) = (nat.memory(), nat.stats().sessions);
    let part = |name: &str, bytes: u64| (name.to_owned(), bytes as f64 / sessions as f64);
    Ok(Memory {
        live: sessions,
        parts: vec![
            part("halves", memory.sessions),
            part("index", memory.index),
            part("TCP tails", memory.tails),
            part("timers", memory.timers),
            part("pods, blocks, ports", memory.subscribers),
            part("mappings", memory.mappings),
            part("rests", memory.rests),
        ],
        resident: grown as f64 / sessions as f64,
        nanoseconds: rig.spent.as_nanos() as f64 / sessions as f64,
        longest_turn: rig.longest.as_nanos() as f64 / 1e3,
    })
}
