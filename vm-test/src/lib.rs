//! Test rigs made of network namespaces, oracles over captures, and the pieces that the black-box
//! suites in `tests/` share. The suites need root: they run real programs over the real kernel.
#![forbid(unsafe_code)]

pub mod binary;
pub mod capture;
pub mod client;
pub mod craft;
pub mod gateway;
pub mod guest;
pub mod halt;
pub mod host;
pub mod inject;
pub mod kernel_nat;
pub mod lab;
pub mod namespace;
pub mod oracle;
pub mod process;
pub mod relay;
pub mod rig;
pub mod server;
pub mod table;
pub mod wait;

pub use capture::Capture;
pub use gateway::Gateway;
pub use host::{Commands, Host};
pub use inject::Wire;
pub use lab::{Flow, Lab};
pub use namespace::Namespace;
pub use process::Process;
pub use rig::{Options, Pool, Rig, Translator};
