//! Which of several ways does a flow take? The same for all its packets, for as long as that way lives.

use super::{AdjacencyId, Journey, NextHop, Roads};
use crate::interface::InterfaceId;

/// One of several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The way.
    pub way: Way,
    /// Its share of the flows, against the others'.
    pub weight: u16,
}

/// A way that is one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// By a router.
    Via(AdjacencyId),
    /// The destination itself is on that link.
    OnLink(InterfaceId),
}

impl Roads {
    /// The way that the flow has taken so far, while it lives. Otherwise, of those that live, the one with the highest
    /// score for this flow (weighted rendezvous, Thaler and Ravishankar 1998): flows of the others stay where they are
    /// when one comes or goes. If none lives, each is tried as if all did.
    pub(super) fn one_of(&self, members: &[Member], journey: &Journey) -> NextHop {
        let hop = |member: &Member| match member.way {
            Way::Via(id) => NextHop::Adjacency(id),
            Way::OnLink(interface) => self.on_link(interface, journey.destination),
        };
        let lives = |hop: NextHop| match hop {
            NextHop::Adjacency(id) => self.adjacency(id).is_some_and(|it| !it.failed),
            _ => true,
        };
        let any_lives = members.iter().any(|member| lives(hop(member)));
        let mut best = (f64::NEG_INFINITY, NextHop::Unreachable);
        for member in members {
            let hop = hop(member);
            if any_lives && !lives(hop) {
                continue;
            }
            if any_lives && journey.kept.is_some_and(|kept| hop == NextHop::Adjacency(kept)) {
                return hop;
            }
            let score = score(journey.flow, member);
            if score > best.0 {
                best = (score, hop);
            }
        }
        best.1
    }
}

/// How much this flow is for this member: the weight over an exponentially distributed number.
fn score(flow: u64, member: &Member) -> f64 {
    let name = match member.way {
        Way::Via(AdjacencyId(id)) => u64::from(id),
        Way::OnLink(InterfaceId(id)) => 1 << 32 | u64::from(id),
    };
    let hash = mix(flow ^ mix(name));
    // In (0, 1): 53 bits fill the fraction, and the half keeps it from the ends.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(member.weight) / -uniform.ln()
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
