//! What changes with size: memory, neighbours, and rules.

pub mod memory;
pub mod neighbours;
pub mod rules;
