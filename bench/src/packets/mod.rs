//! What does a packet cost, without the kernel: by kind, in instructions and in time?
//!
//! One worker on the memory backend takes bursts of packets of one kind. Only its turns are measured: they
//! hold everything from the arrival ring to the transmit ring, and not the making of the packets.

pub mod check;
pub mod cost;
pub mod kind;
pub mod table;
pub mod traffic;

pub use cost::{Settings, measure};
pub use kind::Kind;
pub use table::Table;

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn all_kinds_are_forwarded_but_those_that_nobody_wants() {
        // The other pod has not addressed the sender, and the default filter wants that.
        let dropped = [
            (Kind::Hairpin, "no-session"),
            (Kind::Scan, "no-session"),
            (Kind::Foreign, "not-for-us"),
        ];
        for &kind in Kind::value_variants() {
            let run = cost::run(kind, 100, 4).unwrap();
            let want = dropped.iter().find(|(it, _)| *it == kind).map_or("forwarded", |it| it.1);
            assert_eq!(run.end, want, "{kind:?}");
            assert!(run.nanoseconds > 0.0);
        }
    }
}
