//! What people run around natgate: a traffic generator, a counting sink, and the scorecard that says
//! which requirement is shown by which test.
//!
//! Generator and sink are XDP programs, so that one core makes and counts several million packets a second and the
//! gateway between them is what is measured.

#![forbid(unsafe_code)]

pub mod cpu;
pub mod flood;
pub mod generator;
pub mod interface;
pub mod latency;
mod object;
pub mod scorecard;
pub mod sink;

pub use flood::Flood;
pub use generator::{Generator, Plan, Sent, Tunnel};
pub use latency::Percentiles;
pub use sink::{Sink, Totals};

/// Ends a program: says on standard error what failed, in one line that begins with `error: `.
pub fn exit(result: anyhow::Result<()>) -> std::process::ExitCode {
    let Err(error) = result else { return std::process::ExitCode::SUCCESS };
    // Messages of our own begin with the word already; the kernel's and the parsers' do not.
    let message = format!("{error:#}");
    let word = if message.starts_with("error: ") { "" } else { "error: " };
    eprintln!("{word}{message}");
    std::process::ExitCode::FAILURE
}
