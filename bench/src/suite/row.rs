//! What is a figure, and what was it to be?

use serde::{Deserialize, Serialize};

use crate::report::Spread;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Packets a second, in millions.
    Mpps,
    /// Nanoseconds a packet, a session or an operation.
    Nanoseconds,
    /// Clocks of the time-stamp counter a packet, a session or an operation.
    Clocks,
    /// Instructions a packet.
    Instructions,
    /// New sessions a second, in thousands.
    Sessions,
    /// Requests a second, in thousands.
    Requests,
    /// Bytes a session.
    Bytes,
    /// Microseconds from the generator to the sink.
    Latency,
    /// Processor microseconds a packet, all cores.
    CpuMicros,
    /// Share of a core, or of the packets, in per cent.
    Percent,
    /// Gigabits a second.
    Gbps,
    /// Anything that is counted one by one.
    Count,
}

impl Quantity {
    /// What stands behind the figure.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Mpps => "Mpps",
            Self::Nanoseconds => "ns",
            Self::Clocks => "clocks",
            Self::Instructions => "instructions",
            Self::Sessions => "thousand sessions/s",
            Self::Requests => "thousand requests/s",
            Self::Bytes => "bytes",
            Self::Latency => "µs",
            Self::CpuMicros => "CPU µs",
            Self::Percent => "%",
            Self::Gbps => "Gbit/s",
            Self::Count => "",
        }
    }

    /// Is more better?
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::Mpps | Self::Sessions | Self::Requests | Self::Gbps)
    }
}

/// What a row of a series differs in from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Flows that are sent.
    Flows,
    /// Live sessions.
    Sessions,
    /// Workers.
    Workers,
    /// Per cent of the latencies that are lower.
    Percentile,
    /// Public addresses.
    Addresses,
    /// Rules of the policy.
    Rules,
    /// Used ports, in per cent.
    Fill,
    /// Offered load, as a multiple of the peak.
    Load,
}

impl Axis {
    /// What the axis is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Sessions => "sessions",
            Self::Workers => "workers",
            Self::Percentile => "percentile",
            Self::Addresses => "addresses",
            Self::Rules => "rules",
            Self::Fill => "% of ports used",
            Self::Load => "times the peak",
        }
    }
}

/// A bound that a figure or a ratio was to keep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
}

impl Bound {
    /// Does the median keep it?
    pub fn is_met(self, by: Spread) -> bool {
        match self {
            Self::AtLeast(least) => by.median >= least,
            Self::AtMost(most) => by.median <= most,
        }
    }

    /// As in the table.
    pub fn show(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// A figure as a multiple of another one: of the same repetition if that was measured, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Of what.
    pub of: String,
    /// How many times.
    pub value: Spread,
    /// Is more better?
    pub more_is_better: bool,
    /// What it was to be.
    pub target: Option<Bound>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured; in a plot the name of a line.
    pub what: String,
    /// With how many of what, if there are several.
    pub at: Option<(Axis, f64)>,
    /// What the figure counts.
    pub quantity: Quantity,
    /// The figure.
    pub figure: Spread,
    /// What the figure was to be.
    pub target: Option<Bound>,
    /// Beside others.
    pub ratios: Vec<Ratio>,
}

impl Row {
    /// A figure that stands for itself.
    pub fn new(what: impl Into<String>, quantity: Quantity, figure: Spread) -> Self {
        let (what, at, target, ratios) = (what.into(), None, None, Vec::new());
        Self { what, at, quantity, figure, target, ratios }
    }

    /// With so many of `axis`.
    #[must_use]
    pub fn at(self, axis: Axis, value: impl Into<f64>) -> Self {
        Self { at: Some((axis, value.into())), ..self }
    }

    /// The figure was to keep `bound`.
    #[must_use]
    pub fn to_be(self, bound: Bound) -> Self {
        Self { target: Some(bound), ..self }
    }

    /// The figure is `value` times that of `of`; of rates more is better, of costs less.
    #[must_use]
    pub fn times(mut self, of: &str, value: Spread, target: Option<Bound>) -> Self {
        let more_is_better = match target {
            Some(Bound::AtLeast(_)) => true,
            Some(Bound::AtMost(_)) => false,
            None => self.quantity.more_is_better(),
        };
        self.ratios.push(Ratio { of: of.to_owned(), value, more_is_better, target });
        self
    }

    /// What tells the row from the others of its level.
    pub fn name(&self) -> String {
        match self.at {
            Some((axis, value)) => format!("{}, {} {}", self.what, grouped(value), axis.name()),
            None => self.what.clone(),
        }
    }

    /// Every bound, what keeps it or does not, and as a multiple of what.
    pub fn bounds(&self) -> impl Iterator<Item = (Bound, Spread, Option<&str>)> {
        let own = self.target.map(|bound| (bound, self.figure, None));
        let of_ratio = |ratio| {
            let &Ratio { ref of, value, target, .. } = ratio;
            Some((target?, value, Some(of.as_str())))
        };
        own.into_iter().chain(self.ratios.iter().filter_map(of_ratio))
    }
}

/// A number with commas between thousands.
pub fn grouped(value: f64) -> String {
    if value.fract() != 0.0 || value.abs() < 1000.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
