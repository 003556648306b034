//! The whole pipeline, frames in and frames out, against the reference NAT of `conntrack/tests/reference`,
//! with one worker and with two.
//!
//! Hosts also send ICMP errors about packets that they got: each must reach the sender with its own packet
//! quoted, and change nothing. `NATGATE_STEPS` and `NATGATE_SEED` as there.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "../../../conntrack/tests/reference/compare.rs"]
mod compare;
#[path = "../../../conntrack/tests/reference/nat.rs"]
mod nat;
#[path = "../../../conntrack/tests/reference/ports.rs"]
mod ports;
#[path = "../../../conntrack/tests/reference/run.rs"]
mod run;
#[path = "../../../conntrack/tests/reference/scenario.rs"]
mod scenario;
#[path = "../../../conntrack/tests/reference/speech.rs"]
mod speech;
#[path = "../../../conntrack/tests/reference/tcp.rs"]
mod tcp;

mod frames;
mod gateway;
mod pipeline;

const USUAL_STEPS: usize = 15_000;

#[test]
fn one_worker_does_what_the_reference_does() {
    compare::compare::<pipeline::Pipeline<1>>(USUAL_STEPS);
}

#[test]
fn two_workers_do_what_the_reference_does() {
    compare::compare::<pipeline::Pipeline<2>>(USUAL_STEPS);
}
