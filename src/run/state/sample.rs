//! A session for tests of what is left to the next gateway.

use std::net::Ipv4Addr;

use conntrack::{Endpoint, Origin, PoolId, Protocol, Realm, SessionRecord, State};

/// An open UDP session of 10.244.1.1, by the first pool and rule.
pub(super) fn session(internal: u16, public: Endpoint) -> SessionRecord {
    SessionRecord {
        protocol: Protocol::Udp,
        internal: Endpoint::new(Ipv4Addr::new(10, 244, 1, 1), internal),
        public,
        remote: Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 443),
        overlay: 0,
        pool: PoolId(0),
        rule: 0,
        origin: Origin::Port,
        opened_by: Realm::Internal,
        addressed: true,
        state: State::Open,
        idle_ms: [10, 10],
        age_s: 7,
        counts: [(1, 60), (1, 60)],
        tcp: None,
    }
}
