//! What people run around natgate: a traffic generator and a counting sink.
//!
//! Both are XDP programs, so that one core makes and counts several million packets a second and the
//! gateway between them is what is measured.

#![forbid(unsafe_code)]

pub mod cpu;
pub mod generator;
pub mod interface;
mod object;
pub mod sink;

pub use generator::{Generator, Plan, Sent};
pub use sink::{Sink, Totals};
