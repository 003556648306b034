//! How fast do sessions begin and end?

pub mod sessions;
