//! Rigs in network namespaces, and what the black-box suites share.

pub mod binary;
