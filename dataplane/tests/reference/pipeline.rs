//! The pipeline as a subject: frames in, frames out, reasons counted.

use std::net::Ipv4Addr;
use std::sync::Arc;

use conntrack::{
    Endpoint, FlowKey, MidStream, Pool, PoolId, Protocol, Realm, Refusal, Secret, Segment,
    Timestamp, UnsolicitedSyn,
};
use dataplane::DropReason;

use crate::frames::{self, Said, quoted_ends};
use crate::gateway::{Gateway, INSIDE, OUTSIDE};
use crate::nat::{Reference, Seen};
use crate::run::{Outcome, Subject, View, addresses};
use crate::scenario::Scenario;

/// A router that is nobody's peer.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Every packet of this many is complained about.
const COMPLAINTS: u64 = 5;
/// Errors of all types that are relayed.
const ERRORS: [(u8, u8); 5] = [(3, 1), (3, 3), (3, 13), (11, 0), (12, 0)];

pub struct Pipeline<const WORKERS: u16> {
    gateway: Gateway,
    pool: Arc<Pool>,
    secret: Secret,
    packets: u64,
    wrong: Option<String>,
}

/// What natgate's core said, from the reason that was counted.
fn refusal(reason: DropReason) -> Option<Refusal> {
    Some(match reason {
        DropReason::TcpNotSyn => Refusal::NotSyn,
        DropReason::QuotaBlocks => Refusal::QuotaBlocks,
        DropReason::QuotaSessions => Refusal::QuotaSessions,
        DropReason::QuotaHalfOpen => Refusal::QuotaHalfOpen,
        DropReason::QuotaPorts => Refusal::QuotaPorts,
        DropReason::QuotaRate => Refusal::QuotaRate,
        DropReason::PoolExhausted => Refusal::PoolExhausted,
        DropReason::TableFull => Refusal::TableFull,
        DropReason::NoSession => Refusal::NoMapping,
        DropReason::Filtered => Refusal::Filtered,
        DropReason::TupleTaken => Refusal::TupleTaken,
        DropReason::ProtocolClash => Refusal::ProtocolClash,
        _ => return None,
    })
}

impl<const WORKERS: u16> Pipeline<WORKERS> {
    fn is_public(&self, address: Ipv4Addr) -> bool {
        self.pool.addresses.iter().any(|public| public.addr == address)
    }

    /// The one frame that the packet became, or why it was dropped.
    fn forward(
        &mut self,
        key: &FlowKey,
        frame: &[u8],
        now: Timestamp,
    ) -> Result<Result<(Said, Vec<u8>), Refusal>, String> {
        let arrival = if key.realm == Realm::Internal { INSIDE } else { OUTSIDE };
        self.gateway.inject(arrival, frame);
        let sent = self.gateway.run(now);
        let drops = self.gateway.take_drops();
        if !self.gateway.balances() {
            return Err("packets or frames are lost".into());
        }
        let mut forwarded = Vec::new();
        for (interface, frame) in sent {
            let said = frames::read(&frame)?;
            // What natgate says itself to the sender of what it drops.
            let own = !drops.is_empty() && interface == arrival && said.dst.addr == key.src.addr;
            let hairpin = self.is_public(key.dst.addr) && key.realm == Realm::Internal;
            let way = if hairpin || key.realm == Realm::External { INSIDE } else { OUTSIDE };
            match (own, interface == way) {
                (true, _) => {}
                (false, true) => forwarded.push((said, frame)),
                (false, false) => return Err(format!("the wrong way: {said:?}")),
            }
        }
        match (forwarded.pop(), drops.as_slice()) {
            (Some(one), []) if forwarded.is_empty() => Ok(Ok(one)),
            (None, [reason]) => {
                let refusal = refusal(*reason);
                refusal.map(Err).ok_or_else(|| format!("dropped, {}", reason.name()))
            }
            (one, drops) => Err(format!("sent {one:?} and {forwarded:?}, dropped {drops:?}")),
        }
    }

    /// Somebody complains about `out`, which was `frame` when it came: the sender must learn it as if there
    /// was no NAT (RFC 5508 REQ-4 and 5).
    fn complain(
        &mut self,
        key: &FlowKey,
        (frame, out): (&[u8], &[u8]),
        said: &Said,
        now: Timestamp,
    ) -> Result<(), String> {
        let kind = ERRORS[(self.packets / COMPLAINTS) as usize % ERRORS.len()];
        let inside = key.realm == Realm::Internal;
        // From outside any router may complain; from inside it is the pod itself.
        let (from, arrival) = if inside { (ROUTER, OUTSIDE) } else { (said.dst.addr, INSIDE) };
        let error = frames::error(kind, from, said.src.addr, out);
        self.gateway.inject(arrival, &error);
        let sent = self.gateway.run(now);
        let drops = self.gateway.take_drops();
        let [(_, relayed)] = sent.as_slice() else {
            return Err(format!("the error about {key} became {} frames, {drops:?}", sent.len()));
        };
        let told = frames::read(relayed)?;
        let source = if inside { ROUTER } else { key.dst.addr };
        let (got, want) = (quoted_ends(&told.payload), quoted_ends(&frame[14..]));
        let ends =
            |quote: Option<(Endpoint, Endpoint, usize)>| quote.map(|(src, dst, _)| (src, dst));
        let right = told.error == Some(kind)
            && (told.src.addr, told.dst.addr) == (source, key.src.addr)
            && ends(got) == ends(want);
        if right { Ok(()) } else { Err(format!("the error about {key} became {told:?}")) }
    }

    fn through(
        &mut self,
        key: &FlowKey,
        segment: Option<&Segment>,
        now: Timestamp,
    ) -> Result<(Seen, Option<(FlowKey, Seen)>), String> {
        let hairpin = key.realm == Realm::Internal && self.is_public(key.dst.addr);
        let frame = frames::frame(key, segment);
        let before = frames::read(&frame)?;
        let turned = |public: Endpoint, seen: Seen| {
            (Ok(public), Some((FlowKey { src: public, realm: Realm::External, ..*key }, seen)))
        };
        let (said, out) = match self.forward(key, &frame, now)? {
            Ok(forwarded) => forwarded,
            // It may have got as far as the pool's address, and no further.
            Err(why) if hairpin => {
                return Ok(match self.gateway.public_of(key.src, key.dst, now) {
                    Some(public) => turned(public, Err(why)),
                    None => (Err(why), None),
                });
            }
            Err(why) => return Ok((Err(why), None)),
        };
        let kept = match (hairpin, key.realm) {
            (true, _) => true,
            (_, Realm::Internal) => said.dst == key.dst,
            (_, Realm::External) => said.src == key.src,
        };
        let same = said.protocol == key.protocol && said.payload == before.payload;
        if !kept || !same || said.ttl != 63 {
            return Err(format!("{key} became {said:?}"));
        }
        self.packets += 1;
        let ports = matches!(key.protocol, Protocol::Tcp | Protocol::Udp | Protocol::Icmp);
        if self.packets.is_multiple_of(COMPLAINTS) && ports && !hairpin {
            self.complain(key, (&frame, &out), &said, now)?;
        }
        Ok(match (hairpin, key.realm) {
            (true, _) => turned(said.src, Ok(said.dst)),
            (_, Realm::Internal) => (Ok(said.src), None),
            (_, Realm::External) => (Ok(said.dst), None),
        })
    }
}

impl<const WORKERS: u16> Subject for Pipeline<WORKERS> {
    fn new(scenario: &Scenario, now: Timestamp) -> Self {
        let mut settings = scenario.settings.clone();
        // What natgate says by itself about these is for other tests.
        settings.unsolicited_syn = UnsolicitedSyn::Drop;
        settings.mid_stream = MidStream::Drop;
        let pool = Arc::new(Pool::new(PoolId(0), "p", settings, addresses(scenario)));
        let secret = Secret::from_seed(scenario.seed);
        let gateway = Gateway::new(WORKERS, &pool, secret.clone(), now);
        Self { gateway, pool, secret, packets: 0, wrong: None }
    }

    fn reference(&self, scenario: &Scenario) -> Reference {
        let secret = self.secret.clone();
        let home = Box::new(move |pod| secret.home(pod, WORKERS));
        let mut reference = Reference::new(scenario.settings.clone(), addresses(scenario), 1_000);
        reference.on_the_wire = true;
        reference.ports.shared_by(WORKERS, home);
        reference
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn pass(&mut self, now: Timestamp) {
        // RFC 5382 section 5: resets to both ends, where the pool says so.
        for (_, frame) in self.gateway.run(now) {
            if !frames::read(&frame).is_ok_and(|said| said.reset) {
                self.wrong = Some("natgate sent something that is no reset".into());
            }
        }
    }

    fn packet(&mut self, key: &FlowKey, segment: Option<&Segment>, now: Timestamp) -> Outcome {
        match self.through(key, segment, now) {
            Ok((seen, turned)) => Outcome { seen, turned, wrong: self.wrong.take() },
            Err(wrong) => {
                let seen = Err(Refusal::NoMapping);
                Outcome { seen, turned: None, wrong: Some(wrong) }
            }
        }
    }

    fn views(&mut self, now: Timestamp) -> Vec<View> {
        let row = |row: dataplane::request::SessionRow| View {
            protocol: row.protocol,
            internal: row.internal,
            public: row.public,
            remote: row.remote,
            state: row.state,
            exact: None,
            expires_in_ms: u64::from(row.expires_in_ms),
        };
        self.gateway.sessions(now).into_iter().map(row).collect()
    }

    fn carries(&self, key: &FlowKey) -> bool {
        // Nobody outside has a pool address; natgate answers pings to one itself.
        let (forged, ping) = (self.is_public(key.src.addr), self.is_public(key.dst.addr));
        match key.realm {
            Realm::External => !forged,
            Realm::Internal => !(ping && key.protocol == Protocol::Icmp),
        }
    }
}
