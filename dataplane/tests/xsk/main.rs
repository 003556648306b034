//! AF_XDP in network namespaces. Needs root, `ip`, `ethtool`, `ping` and clang.

#![allow(clippy::unwrap_used)] // helpers of tests count as none

mod frames;
mod rig;
mod steering;
mod tunnels;
