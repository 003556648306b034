//! What stands in the JSON of `/v1/explain`? Server and client use these types.

use serde::{Deserialize, Serialize};

/// `/v1/explain`: what would become of the first packet of a flow.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Explained {
    /// Who sends, `a.b.c.d` or `a.b.c.d:port`.
    pub(crate) from: String,
    /// To whom.
    pub(crate) to: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub(crate) protocol: String,
    /// The interface where it is taken to arrive.
    pub(crate) arrival: String,
    /// `kernel`, `session`, `opens`, `exempt`, `answered`, `refused`, or `unreachable`: it would pass, but its next hop does
    /// not answer.
    pub(crate) verdict: String,
    /// The name of the reason, if it is refused, or unreachable.
    pub(crate) reason: Option<String>,
    /// The same in a sentence, with what an operator can do.
    pub(crate) why: String,
    /// What was found: once, or twice if it turns back to the pods (hairpin).
    pub(crate) legs: Vec<Leg>,
}

/// One translation of the packet.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Leg {
    /// `internal` or `external`: where it comes from.
    pub(crate) realm: String,
    /// The worker that decides.
    pub(crate) worker: u16,
    /// As of the whole, but never `unreachable`.
    pub(crate) verdict: String,
    /// The rule that decides, if one does.
    pub(crate) rule: Option<String>,
    /// The pool.
    pub(crate) pool: Option<String>,
    /// The pool's profile.
    pub(crate) profile: Option<String>,
    /// How the public endpoint is found: `session`, `mapping`, `fixed`, `scattered`, `preserved`, `held-block`,
    /// `shared-port`, `new-block`, `new-block-elsewhere`, `replaced` or `address`.
    pub(crate) means: Option<String>,
    /// The public endpoint, if no draw is left.
    pub(crate) public: Option<String>,
    /// Where it would be drawn from.
    pub(crate) places: Vec<Place>,
    /// The pod that is reached, from outside.
    pub(crate) internal: Option<String>,
    /// State of the session, if there is one.
    pub(crate) state: Option<String>,
    /// Milliseconds until the session ends, if nothing comes.
    pub(crate) expires_in_ms: Option<u32>,
    /// How far the subscriber's limits are used up.
    pub(crate) limits: Vec<LimitUsed>,
    /// It turns back to the pods.
    pub(crate) turns_back: bool,
    /// The way to its destination.
    pub(crate) there: Option<Way>,
    /// The way of answers.
    pub(crate) back: Option<Way>,
}

/// Ports of a public address.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Place {
    /// The address.
    pub(crate) address: String,
    /// The first port.
    pub(crate) first: u16,
    /// The last one.
    pub(crate) last: u16,
}

/// How much of a limit is used.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LimitUsed {
    /// Which.
    pub(crate) limit: String,
    /// So much.
    pub(crate) used: u64,
    /// Of so much.
    pub(crate) most: u64,
}

/// The way of a packet.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Way {
    /// `neighbour`, `no-route`, `blackhole`, `unreachable`, `prohibit` or `kernel` (this host, or an interface that natgate does
    /// not serve).
    pub(crate) route: String,
    /// Where it leaves.
    pub(crate) interface: Option<String>,
    /// The neighbour.
    pub(crate) next_hop: Option<Hop>,
    /// The tunnel that it goes through.
    pub(crate) tunnel: Option<TunnelWay>,
    /// The longest IP packet that the way carries, in bytes.
    pub(crate) mtu: Option<u16>,
}

/// A neighbour.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Hop {
    /// Its address.
    pub(crate) address: String,
    /// Its Ethernet address, if it is known.
    pub(crate) mac: Option<String>,
    /// `known`, `unknown` (packets wait until the kernel has asked for it) or `failed` (it did not answer).
    pub(crate) state: String,
}

/// A tunnel by which packets go.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TunnelWay {
    /// VXLAN network identifier.
    pub(crate) vni: u32,
    /// This end.
    pub(crate) local: String,
    /// The other end.
    pub(crate) remote: String,
    /// The UDP port of both.
    pub(crate) port: u16,
    /// The interface that outer packets leave by.
    pub(crate) underlay: String,
    /// Their neighbour.
    pub(crate) next_hop: Hop,
}
