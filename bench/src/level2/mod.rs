//! How fast do sessions begin and end, and what does a port cost?

pub mod fill;
pub mod sessions;
