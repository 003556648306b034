//! natgate's core against a NAT that is slow and obviously right (`nat.rs`, `ports.rs`, `tcp.rs`): random
//! packets and times in tiny pools, every difference is a failure, shrunk to a short story.
//!
//! `NATGATE_STEPS=5000000 cargo test --profile proof -p natgate-conntrack --test reference` runs that many
//! steps instead of the usual few, `NATGATE_SEED=7` other ones.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod compare;
mod core;
mod nat;
mod ports;
mod run;
mod scenario;
mod speech;
mod tcp;

const USUAL_STEPS: usize = 60_000;

#[test]
fn the_core_does_what_the_reference_does() {
    compare::compare::<core::Core>(USUAL_STEPS);
}
