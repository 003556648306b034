//! natgate's core against a NAT that is slow and obviously right (`nat.rs`, `ports.rs`, `tcp.rs`): random
//! packets and times in tiny pools, every difference is a failure, shrunk to a short story.
//!
//! `NATGATE_STEPS=5000000 cargo test --profile proof -p natgate-conntrack --test reference` runs that many
//! steps instead of the usual few, `NATGATE_SEED=7` other ones.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod compare;
mod core;
mod judge;
mod nat;
mod ports;
mod run;
mod scenario;
mod speech;
mod tcp;

const USUAL_STEPS: usize = 15_000;

// Proves: 4787-REQ-1, 4787-REQ-2, 4787-REQ-3, 4787-REQ-3a, 4787-REQ-4, 4787-REQ-6, 4787-REQ-6a, 4787-REQ-8, 4787-REQ-8a
// Proves: 4787-REQ-11, 5382-REQ-1, 5382-REQ-3, 5382-REQ-3b, 5382-REQ-5.2, 5382-REQ-5.3, 5382-REQ-7, 5382-S9a
// Proves: 5508-REQ-1a, 5508-REQ-2, 6888-REQ-4, 6888-REQ-4b, 6888-REQ-5, 6888-REQ-5b, 6888-REQ-8, 6888-REQ-8a
// Proves: 6888-REQ-8.1, 6888-REQ-11a, 6888-REQ-11d, 6888-REQ-13, 7857-S2, 7857-S2.2b, 7857-S2.2c, 7857-S3a, 7857-S3b
// Proves: 7857-S4a, 7857-S4b, 7857-S5a, 7857-S6a, 7857-S7a, 7857-S7b, 7857-S7.1a
#[test]
fn the_core_does_what_the_reference_does() {
    compare::compare::<core::Core>(USUAL_STEPS);
}
