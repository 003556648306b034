//! Level 1: what does an established packet cost without the kernel, over many sessions?
//!
//! One worker on the memory backend. 64-byte UDP frames of sessions in random order, without locality, come from a
//! ring of buffers that does not fit the first-level cache; only the worker's turns are timed. In between, round
//! by round, the limit: the same loop over the same kind of buffers with the NAT removed ([`limit`]); and the floor of a
//! NAT in memory: two lines at random for each packet, and nothing else ([`floor`]).

pub mod floor;
pub mod limit;
pub mod listing;
pub mod run;
pub mod sessions;
pub mod table;

pub use run::{Settings, measure};
pub use table::Memory;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which way the measured packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From pods.
    Out,
    /// To pods.
    In,
}

impl Way {
    /// As the table shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Out => "outbound",
            Self::In => "inbound",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_forwarded_and_timed() {
        let settings = Settings {
            sessions: vec![1_000],
            ways: vec![Way::Out, Way::In],
            repetitions: 2,
            rounds: 2,
            dont_fragment: true,
        };
        let figures = measure(&settings).unwrap();
        assert_eq!(figures.len(), 2);
        for figure in &figures {
            assert!(figure.nanoseconds.median > 0.0 && figure.limit.median > 0.0);
            assert!(figure.floor.median > 0.0);
            assert!(figure.against_vpp(2.596).is_some(), "1,000 sessions are in VPP's table");
        }
    }
}
