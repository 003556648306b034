//! The whole pipeline, frames in and frames out, against the reference NAT of `conntrack/tests/reference`,
//! with one worker and with two.
//!
//! Hosts also send ICMP errors about packets that they got: each must reach the sender with its own packet
//! quoted, and change nothing. `NATGATE_STEPS` and `NATGATE_SEED` as there.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "../../../conntrack/tests/reference/compare.rs"]
mod compare;
#[path = "../../../conntrack/tests/reference/judge.rs"]
mod judge;
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

const USUAL_STEPS: usize = 4_000;

// Proves: 4787-REQ-8, 4787-REQ-9, 4787-REQ-9a, 4787-REQ-12, 4787-S9a, 5382-REQ-8, 5382-REQ-8a, 5382-REQ-10
#[test]
fn one_worker_does_what_the_reference_does() {
    compare::compare::<pipeline::Pipeline<1>>(USUAL_STEPS);
}

// Proves: 5508-REQ-4a, 5508-REQ-4b, 5508-REQ-4c, 5508-REQ-5a, 5508-REQ-5b, 5508-REQ-6, 5508-S4.2.2
#[test]
fn two_workers_do_what_the_reference_does() {
    compare::compare::<pipeline::Pipeline<2>>(USUAL_STEPS);
}
