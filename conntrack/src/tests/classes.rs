//! Random traffic through every class of mapping and filter, beside a model that only knows the words of
//! the RFCs.

use proptest::prelude::*;

use super::*;
use crate::Scatter;
use crate::mapping::{Class, Sharing};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The pod sends, with these flags if it is TCP.
    Out {
        pod: u8,
        port: u16,
        server: u8,
        server_port: u16,
        protocol: usize,
        flags: u8,
    },
    /// A remote sends to one of the public endpoints in use.
    In {
        target: usize,
        server: u8,
        server_port: u16,
        flags: u8,
    },
    Wait {
        secs: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![0x02u8, 0x02, 0x10, 0x11, 0x12, 0x04, 0x14]);
    let remote = (1u8..4, prop::sample::select(vec![1u16, 2, 53]));
    let flow = (1u8..4, 1u16..6, 0usize..4);
    prop_oneof![
        6 => (flow, remote.clone(), flags.clone()).prop_map(|((pod, port, protocol), (server, server_port), flags)| {
            Step::Out { pod, port, server, server_port, protocol, flags }
        }),
        6 => (any::<usize>(), remote, flags).prop_map(|(target, (server, server_port), flags)| {
            Step::In { target, server, server_port, flags }
        }),
        1 => (0u64..150).prop_map(|secs| Step::Wait { secs }),
    ]
}

/// Protocol, internal endpoint, remote.
type Flow = (Protocol, Endpoint, Endpoint);

struct World {
    nat: Nat,
    pool: Arc<Pool>,
    now: Timestamp,
    /// Which live sessions' remotes the internal endpoint has addressed itself.
    addressed: HashSet<Flow>,
    /// The public endpoints that mappings of flows had when they were first seen, while they live.
    protocols: [Protocol; 4],
}

fn flow_of(s: &SessionView) -> Flow {
    (s.protocol, s.internal, s.remote)
}

impl World {
    fn new(mapping: Behavior, filtering: Behavior, overlap: Overlap) -> Self {
        let settings = PoolSettings {
            ports: 1024..=1087,
            block_size: 16,
            scatter: Some(Scatter { ports: 1072..=1087, rest: Duration::from_secs(2) }),
            overlap,
            ..class(mapping, filtering)
        };
        let (nat, pool) = nat_with(settings, 2, 1_000);
        let protocols = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp, Protocol::Other(47)];
        Self { nat, pool, now: secs(1), addressed: HashSet::new(), protocols }
    }

    fn sessions(&self) -> Vec<SessionView> {
        all_sessions(&self.nat, self.now)
    }

    fn out(&mut self, flow: &FlowKey, segment: Option<&Segment>) {
        let before = self.sessions();
        let slot = match self.nat.find(flow) {
            Some(slot) => Ok(slot),
            None => self.nat.open(flow, POOL, segment, self.now),
        };
        let is_reset = segment.is_some_and(|s| s.flags.has(TcpFlags::RST));
        let is_syn = segment.is_none_or(|s| s.flags.has(TcpFlags::SYN)) && !is_reset;
        let Ok(slot) = slot else {
            assert_ne!(slot, Err(Refusal::TupleTaken), "a port was leased twice to one remote");
            return;
        };
        let public = self.nat.rewrite(slot).src;
        self.nat.commit(slot, self.now, 100, segment);
        if is_syn {
            self.addressed.insert((flow.protocol, flow.src, flow.dst));
        }
        self.check_mapping(&before, flow, public);
    }

    /// A flow that has a mapping uses it.
    fn check_mapping(&self, before: &[SessionView], flow: &FlowKey, public: Endpoint) {
        let mapping = self.pool.settings.mapping;
        if flow.protocol == Protocol::Other(47) {
            return;
        }
        let same = |s: &&SessionView| {
            let own = s.protocol == flow.protocol && s.internal == flow.src;
            own && match mapping {
                Behavior::EndpointIndependent => true,
                // A session that somebody opened from outside has the mapping that he came by.
                Behavior::AddressDependent => {
                    s.opened_by == Realm::Internal && s.remote.addr == flow.dst.addr
                }
                Behavior::AddressAndPortDependent => s.remote == flow.dst,
            }
        };
        let existing = before.iter().any(|s| flow_of(s) == (flow.protocol, flow.src, flow.dst));
        if let (false, Some(s)) = (existing, before.iter().find(same)) {
            assert_eq!(s.public, public, "{flow} has a mapping and uses another");
        }
    }

    fn receive(&mut self, key: &FlowKey, segment: Option<&Segment>) {
        let expected = self.expected(key, segment);
        let got = match self.nat.find(key) {
            Some(slot) => Ok(slot),
            None => self.nat.open_inbound(key, segment, self.now),
        };
        let internal = got.map(|slot| self.nat.rewrite(slot).dst).ok();
        assert_eq!(internal, expected, "{key}: {got:?}");
        if let Ok(slot) = got {
            self.nat.commit(slot, self.now, 100, segment);
        }
    }

    /// Which internal endpoint gets a packet, by the words of RFC 4787 section 5: whoever has the public
    /// endpoint, if he has sent to whom the filter says.
    fn expected(&self, key: &FlowKey, segment: Option<&Segment>) -> Option<Endpoint> {
        let sessions = self.sessions();
        let here: Vec<_> =
            sessions.iter().filter(|s| (s.protocol, s.public) == (key.protocol, key.dst)).collect();
        if let Some(own) = here.iter().find(|s| s.remote == key.src) {
            return Some(own.internal);
        }
        if key.protocol == Protocol::Other(47) {
            return None;
        }
        let addressed = |s: &&SessionView| self.addressed.contains(&flow_of(s));
        let settings = &self.pool.settings;
        let owner = match settings.filtering_udp {
            Behavior::EndpointIndependent => here.first().map(|s| s.internal),
            Behavior::AddressDependent => {
                let known = |s: &&&SessionView| s.remote.addr == key.src.addr && addressed(s);
                here.iter().find(known).map(|s| s.internal)
            }
            Behavior::AddressAndPortDependent => None,
        }?;
        let opens = key.protocol != Protocol::Tcp || segment.is_some_and(|s| s.flags.opens());
        // The pod has a session with this very remote by another public endpoint.
        let taken = sessions.iter().any(|s| flow_of(s) == (key.protocol, owner, key.src));
        (opens && !taken).then_some(owner)
    }

    fn check(&mut self) {
        let sessions = self.sessions();
        let live: HashSet<Flow> = sessions.iter().map(flow_of).collect();
        assert_eq!(live.len(), sessions.len(), "two sessions of one flow");
        self.addressed.retain(|flow| live.contains(flow));
        let tuples: HashSet<_> =
            sessions.iter().map(|s| (s.protocol, s.public, s.remote)).collect();
        assert_eq!(tuples.len(), sessions.len(), "two sessions on one tuple outside");
        self.check_owners(&sessions);
        self.check_wanted(&sessions);
        let claims = sessions.iter().filter(|s| s.protocol == Protocol::Other(47));
        for s in claims {
            let address = self.pool.addresses.iter().find(|a| a.addr == s.public.addr).unwrap();
            assert_eq!(address.claims.worker_of(47, s.remote.addr), Some(0));
        }
    }

    /// Who may share a public endpoint.
    fn check_owners(&self, sessions: &[SessionView]) {
        let mut owners = HashMap::new();
        for s in sessions {
            let sharing = Class::of(&self.pool.settings, s.protocol).sharing;
            let scope = match sharing {
                _ if s.protocol == Protocol::Other(47) => Some(s.remote),
                Sharing::Nobody => None,
                Sharing::ByAddress => Some(Endpoint::new(s.remote.addr, 0)),
                Sharing::ByEndpoint => Some(s.remote),
            };
            let owner = *owners.entry((s.protocol, s.public, scope)).or_insert(s.internal);
            assert_eq!(owner, s.internal, "{sharing:?}: {} has two owners", s.public);
        }
    }

    /// No mapping lives by strangers alone.
    fn check_wanted(&self, sessions: &[SessionView]) {
        for s in sessions {
            let wanted = |other: &&SessionView| {
                (other.protocol, other.public, other.internal) == (s.protocol, s.public, s.internal)
                    && self.addressed.contains(&flow_of(other))
            };
            assert!(sessions.iter().any(|other| wanted(&other)), "{s:?} lives by strangers");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Out { pod: n, port, server, server_port, protocol, flags } => {
                let protocol = self.protocols[protocol];
                let (port, server_port) = match protocol {
                    Protocol::Icmp => (port, 0),
                    Protocol::Other(_) => (0, 0),
                    Protocol::Tcp | Protocol::Udp => (port, server_port),
                };
                let flow = key(protocol, (pod(n), port), remote(server, server_port));
                let segment = Segment::bare(flags);
                self.out(&flow, (protocol == Protocol::Tcp).then_some(&segment));
            }
            Step::In { target, server, server_port, flags } => {
                let sessions = self.sessions();
                if sessions.is_empty() {
                    return;
                }
                let target = &sessions[target % sessions.len()];
                let with_ports = matches!(target.protocol, Protocol::Tcp | Protocol::Udp);
                let from = remote(server, if with_ports { server_port } else { 0 });
                let segment = Segment::bare(flags);
                let tcp = (target.protocol == Protocol::Tcp).then_some(&segment);
                self.receive(&inbound(target.protocol, from, target.public), tcp);
            }
            Step::Wait { secs } => {
                self.now = self.now + Duration::from_secs(secs);
                self.nat.expire(self.now, u32::MAX);
            }
        }
        self.check();
    }

    /// When all is silent, all returns.
    fn end(mut self) {
        for secs in [8_000, 700, 700] {
            self.now = self.now + Duration::from_secs(secs);
            self.nat.expire(self.now, u32::MAX);
        }
        let stats = self.nat.stats();
        assert_eq!((stats.sessions, stats.subscribers, stats.mappings), (0, 0, 0));
        assert!(self.nat.mappings.is_empty());
        for address in &self.pool.addresses {
            assert_eq!(address.directory.held(), 0);
            assert!(address.claims.is_empty());
        }
    }
}

fn run(steps: &[Step], mapping: Behavior, filtering: Behavior, overlap: Overlap) {
    let mut world = World::new(mapping, filtering, overlap);
    for &step in steps {
        world.step(step);
    }
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    // Proves: 4787-REQ-1, 4787-REQ-3, 4787-REQ-8, 4787-REQ-11, 5382-REQ-1, 5382-REQ-7
    #[test]
    fn every_class_agrees_with_the_words(steps in prop::collection::vec(step(), 1..120)) {
        for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
            for overlap in [Overlap::Endpoint, Overlap::Address] {
                run(&steps, mapping, filtering, overlap);
            }
        }
    }
}
