//! What does a look-up cost with many rules, and how long does it take to make them ready?

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant;

use conntrack::{PoolId, Protocol};
use dataplane::rule::{Action, Rule, RuleSet};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Flows that are looked up.
const FLOWS: u32 = 100_000;

/// How the rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// A rule for each /28 of pods.
    Sources,
    /// A rule for each /24 of destinations, all for all pods.
    Destinations,
    /// One rule with so many source and destination prefixes.
    Prefixes,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sources, Self::Destinations, Self::Prefixes];

    /// What they differ in.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Destinations => "destinations",
            Self::Prefixes => "prefixes",
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// How the rules differ.
    pub shape: Shape,
    /// Rules, or prefixes.
    pub count: u32,
    /// Milliseconds until they are ready.
    pub compile: f64,
    /// Nanoseconds for a look-up.
    pub look_up: f64,
}

fn source(n: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + n * 16), 28)
}

fn destination(n: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x2d00_0000 + n * 256), 24)
}

fn rules(shape: Shape, count: u32) -> Vec<Rule> {
    let rule = |from: Vec<Ipv4Net>, to: Vec<Ipv4Net>| Rule {
        name: "rule".into(),
        priority: 1_000,
        from,
        to,
        except: Vec::new(),
        services: Vec::new(),
        action: Action::Pool(PoolId(0)),
    };
    let pods = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
    match shape {
        Shape::Sources => {
            (0..count).map(|n| rule(vec![source(n)], vec![Ipv4Net::default()])).collect()
        }
        Shape::Destinations => (0..count).map(|n| rule(vec![pods], vec![destination(n)])).collect(),
        Shape::Prefixes => {
            let (from, to) = ((0..count).map(source), (0..count).map(destination));
            vec![rule(from.collect(), to.collect())]
        }
    }
}

/// Makes `count` rules, or one with so many prefixes, ready, and looks flows up.
pub fn measure(shape: Shape, count: u32) -> Cost {
    let rules = rules(shape, count);
    let start = Instant::now();
    let set = RuleSet::new(rules);
    let compile = start.elapsed().as_nanos() as f64 / 1e6;
    // A prime: neighbours in time are none in the tables.
    let places = (0..FLOWS).map(|n| n.wrapping_mul(7_919) % count);
    let start = Instant::now();
    let mut found = 0u32;
    for place in places {
        let (src, dst) = (source(place).network(), destination(place).network());
        found += u32::from(set.decide(black_box(src), dst, Some(Protocol::Udp), 53).is_some());
    }
    let look_up = start.elapsed().as_nanos() as f64 / f64::from(FLOWS);
    assert_eq!(found, FLOWS, "every flow has a rule");
    Cost { shape, count, compile, look_up }
}
