//! How fast is the gateway, against its limit and its peers, in the same run?
//!
//! ```text
//!  gen ──────────── gw ──────────── sink
//!  live frames  int0  ext0   counts, drops
//! ```

#![forbid(unsafe_code)]

pub mod callgrind;
pub mod contestant;
pub mod forward;
pub mod frame;
pub mod gateway;
pub mod level2;
pub mod level4;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod packets;
pub mod report;
pub mod rig;
pub mod scaling;
pub mod suite;
pub mod veth;
