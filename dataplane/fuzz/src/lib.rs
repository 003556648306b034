//! Packets in, packets out: stories that a fuzzer tells a gateway in memory, and what must hold after
//! every packet.
//!
//! [`story`] says what may happen, [`play`] lets it happen, [`oracle`] judges what the gateway sends.

#![forbid(unsafe_code)]

// Shared with the benchmark, which is in the workspace: what changes there is noticed there.
#[path = "../../../bench/src/frame.rs"]
pub mod frame;
#[path = "../../../bench/src/gateway.rs"]
pub mod gateway;
mod knobs;
pub mod look;
mod make;
pub mod oracle;
pub mod play;
pub mod story;

pub use play::play;
pub use story::Story;
