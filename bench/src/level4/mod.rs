//! What changes with size: memory, and rules.

pub mod memory;
pub mod rules;
