//! What is natgate doing, in a word or two? The same in `natgate status` and `natgate top`.

use crate::api::model::Status;

use super::human::{ago, millis};

/// Whether traffic flows, and if not as it should: why.
pub(crate) fn state(status: &Status) -> String {
    let end = stopping(status.stopping_in_s);
    match (status.ready, status.drained_since) {
        (false, _) if !status.gone.is_empty() => {
            format!("NOT READY, {} gone{end}", status.gone.join(", "))
        }
        (false, _) if status.stopping_in_s.is_some() => "STOPPING".to_owned(),
        (false, _) => "starting".to_owned(),
        (true, Some(since)) => format!("DRAINING since {}{end}", ago(since)),
        (true, None) => "ready".to_owned(),
    }
}

/// When it ends, if it was told to.
pub(super) fn stopping(left: Option<u64>) -> String {
    left.map_or_else(String::new, |left| format!(", STOPPING in {}", millis(left * 1000)))
}
