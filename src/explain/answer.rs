//! What do the workers say of it, with names in place of numbers?

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conntrack::{Endpoint, Means, PoolId, Prospect, Protocol, Realm};
use crossbeam::channel::{RecvTimeoutError, bounded};
use dataplane::DropReason;
use dataplane::explain::{Explanation, Flow, Outcome, follow, most_telling};
use dataplane::interface::{InterfaceId, Roles};
use dataplane::passage::{Passage, Step, Through};
use dataplane::request::Request;
use dataplane::roads::{Denial, Journey, NextHop, Roads};
use dataplane::snapshot::Snapshot;

use super::model::{Explained, Hop, Leg, LimitUsed, Place, TunnelWay, Way};
use super::{Question, unreachable};
use crate::api::{Shared, pool_name};

/// A worker that says nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a packet from one address to another that arrives on a side is natgate's, and not the kernel's.
pub(crate) type Takes = Box<dyn Fn(Roles, Ipv4Addr, Ipv4Addr) -> bool + Send + Sync>;

/// What is known of flows beside the snapshot.
pub(crate) struct Facts {
    /// The steering program's decision.
    pub(crate) takes: Takes,
    /// The profile of each pool, by its name.
    profiles: Mutex<BTreeMap<String, &'static str>>,
}

impl Facts {
    /// With pools of no known profile.
    pub(crate) fn new(takes: Takes) -> Self {
        Self { takes, profiles: Mutex::default() }
    }

    /// Takes over the profiles of a configuration.
    pub(crate) fn set_profiles(&self, profiles: impl Iterator<Item = (String, &'static str)>) {
        *self.profiles.lock().unwrap_or_else(PoisonError::into_inner) = profiles.collect();
    }

    fn profile(&self, pool: &str) -> Option<String> {
        let profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        profiles.get(pool).map(|name| (*name).to_owned())
    }
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The question makes no sense here.
    Wrong(String),
    /// Workers do not answer.
    Late(String),
}

/// Asks the workers; waits for them, so it must not run where others wait.
pub(crate) fn explain(shared: &Shared, question: &Question) -> Result<Explained, NoAnswer> {
    let snapshot = shared.snapshot.get();
    let arrival = arrival(&snapshot, question).map_err(NoAnswer::Wrong)?;
    let interface = &snapshot.interfaces[arrival.index()];
    let mut explained = Explained {
        from: endpoint(question.from, question.from.port == 0),
        to: endpoint(question.to, question.to.port == 0),
        protocol: protocol_name(question.protocol),
        arrival: interface.name.clone(),
        verdict: "kernel".to_owned(),
        reason: None,
        why: "the kernel has this packet: natgate takes what comes from the `from` prefixes of rules, and what \
              goes to pool addresses; but not what is for this host, or for pods that the kernel reaches"
            .to_owned(),
        legs: Vec::new(),
    };
    if !(shared.explain.takes)(interface.roles, question.from.addr, question.to.addr) {
        return Ok(explained);
    }
    let Question { protocol, from: src, to: dst, .. } = *question;
    let flow = Flow { protocol, src, dst, arrival, turned: None };
    let mut failure = None;
    let legs = follow(flow, |flow| match ask(shared, flow) {
        Ok(answer) => answer,
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    if let Some(failure) = failure {
        return Err(NoAnswer::Late(failure));
    }
    let silence = || "no answer (workers): none knows of this flow; try again".to_owned();
    let last = legs.last().ok_or_else(silence).map_err(NoAnswer::Late)?;
    verdict(&last.outcome).clone_into(&mut explained.verdict);
    explained.reason = match &last.outcome {
        Outcome::Refused(reason) => Some(reason.name().to_owned()),
        _ => None,
    };
    explained.why = why(&last.outcome, legs.len() > 1);
    explained.legs = legs.iter().map(|leg| named(shared, &snapshot, leg)).collect();
    unreachable::judge(&mut explained);
    unreachable::judge_links(&mut explained, &|side| {
        shared.without_link(|roles| match side {
            Realm::Internal => roles.internal,
            Realm::External => roles.external,
        })
    });
    Ok(explained)
}

fn ask(shared: &Shared, flow: Flow) -> Result<Option<Explanation>, String> {
    let (reply, answers) = bounded(shared.workers.len());
    for (number, worker) in shared.workers.iter().enumerate() {
        let asked = worker.requests.try_send(Request::Explain(flow, reply.clone()));
        asked.map_err(|_| {
            format!("cannot ask (worker {number}): it takes no questions now; try again")
        })?;
        (worker.wake)();
    }
    drop(reply);
    let mut all = Vec::new();
    loop {
        match answers.recv_timeout(PATIENCE) {
            Ok(answer) => all.push(answer),
            Err(RecvTimeoutError::Disconnected) => return Ok(most_telling(all)),
            Err(RecvTimeoutError::Timeout) => {
                return Err(
                    "no answer (a worker): it did not answer in time; see natgate's log".to_owned()
                );
            }
        }
    }
}

/// Where the packet would arrive: by the tunnel that was named; else by the way to its sender, if that is by an interface of
/// the right side, or the first one of that side.
fn arrival(snapshot: &Snapshot, question: &Question) -> Result<InterfaceId, String> {
    let ids = || (0..).map(InterfaceId).zip(&snapshot.interfaces);
    if let Some(vni) = question.vni {
        let found = ids().find(|(_, it)| it.tunnel.is_some_and(|tunnel| tunnel.vni == vni));
        let vnis: Vec<String> =
            ids().filter_map(|(_, it)| Some(it.tunnel?.vni.to_string())).collect();
        let there_are = if vnis.is_empty() { "there is none".into() } else { vnis.join(", ") };
        return found.map(|(id, _)| id).ok_or_else(|| {
            format!("no tunnel has this number ({vni}): natgate serves no such; give one of its own ({there_are})")
        });
    }
    let policy = &snapshot.policy;
    let (from, to) = (question.from.addr, question.to.addr);
    let is_pod = policy.rules.knows_source(from);
    let outside = !is_pod && (policy.addresses.contains_key(&to) || policy.rules.knows_source(to));
    let fits = |roles: Roles| if outside { roles.external } else { roles.internal };
    let roads = &snapshot.roads;
    let way = roads.interface_of(roads.next_hop(&Journey::to(from)));
    let way = way.filter(|id| snapshot.interfaces.get(id.index()).is_some_and(|it| fits(it.roles)));
    way.or_else(|| ids().find(|(_, it)| fits(it.roles)).map(|(id, _)| id)).ok_or_else(|| {
        "cannot tell (interfaces): none serves that side; see 'natgate interfaces'".to_owned()
    })
}

fn endpoint(endpoint: Endpoint, without_port: bool) -> String {
    if without_port { endpoint.addr.to_string() } else { endpoint.to_string() }
}

fn protocol_name(protocol: Protocol) -> String {
    match protocol {
        Protocol::Other(number) => number.to_string(),
        named => named.name().to_owned(),
    }
}

fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Session(_) => "session",
        Outcome::Opens(_) | Outcome::Reaches(_) => "opens",
        Outcome::Exempt => "exempt",
        Outcome::Answered => "answered",
        Outcome::Refused(_) => "refused",
    }
}

fn why(outcome: &Outcome, turns: bool) -> String {
    let turned = if turns { ", and turned back to the pods" } else { "" };
    match outcome {
        Outcome::Session(_) => format!("it belongs to a session, and is translated{turned}"),
        Outcome::Opens(_) | Outcome::Reaches(_) => {
            format!("a session is opened, and it is translated{turned}")
        }
        Outcome::Exempt => {
            "its rule exempts it, and it is forwarded untranslated, without state".to_owned()
        }
        Outcome::Answered => "natgate answers pings to its addresses itself".to_owned(),
        Outcome::Refused(reason) => refused(*reason),
    }
}

fn refused(reason: DropReason) -> String {
    format!("dropped as {}: {}", reason.name(), reason.remedy())
}

fn named(shared: &Shared, snapshot: &Snapshot, it: &Explanation) -> Leg {
    let rule = it.rule.and_then(|rule| snapshot.policy.rules.rules().get(usize::from(rule)));
    let pool = it.pool.map(|id: PoolId| pool_name(snapshot, id));
    let mut leg = Leg {
        realm: match it.realm {
            Realm::Internal => "internal",
            Realm::External => "external",
        }
        .to_owned(),
        worker: it.worker,
        verdict: verdict(&it.outcome).to_owned(),
        rule: rule.map(|rule| rule.name.clone()),
        profile: pool.as_ref().and_then(|pool| shared.explain.profile(pool)),
        pool,
        means: None,
        public: None,
        places: Vec::new(),
        internal: None,
        state: None,
        expires_in_ms: None,
        limits: Vec::new(),
        turns_back: it.turns_back,
        there: it.there.as_ref().map(|way| named_way(snapshot, way)),
        back: it.back.as_ref().map(|way| named_way(snapshot, way)),
    };
    let limits = it.usage.iter().map(|usage| LimitUsed {
        limit: usage.limit.name().to_owned(),
        used: usage.used,
        most: usage.most,
    });
    leg.limits = limits.collect();
    match &it.outcome {
        Outcome::Session(view) => {
            leg.means = Some("session".to_owned());
            leg.public = Some(view.public.to_string());
            leg.internal = (it.realm == Realm::External).then(|| view.internal.to_string());
            leg.state = Some(view.state.name().to_owned());
            leg.expires_in_ms = Some(view.expires_in_ms);
        }
        Outcome::Opens(prospect) => {
            leg.means = Some(means_name(prospect.means).to_owned());
            leg.public = prospect.endpoint().map(|public| match prospect.means {
                Means::Address => public.addr.to_string(),
                _ => public.to_string(),
            });
            leg.places = places(prospect);
        }
        Outcome::Reaches(reached) => leg.internal = Some(reached.internal.to_string()),
        Outcome::Exempt | Outcome::Answered | Outcome::Refused(_) => {}
    }
    leg
}

fn places(prospect: &Prospect) -> Vec<Place> {
    let places = prospect.places.iter().map(|(address, ports)| Place {
        address: address.to_string(),
        first: *ports.start(),
        last: *ports.end(),
    });
    places.collect()
}

const fn means_name(means: Means) -> &'static str {
    match means {
        Means::Mapping => "mapping",
        Means::Fixed => "fixed",
        Means::Scattered => "scattered",
        Means::Preserved => "preserved",
        Means::Held => "held-block",
        Means::Shared => "shared-port",
        Means::Block { spilled: false } => "new-block",
        Means::Block { spilled: true } => "new-block-elsewhere",
        Means::Replaced => "replaced",
        Means::Address => "address",
    }
}

fn named_way(snapshot: &Snapshot, way: &Passage) -> Way {
    let route = match way.hop {
        NextHop::Adjacency(_) | NextHop::Unknown(..) | NextHop::Hairpin => "neighbour",
        NextHop::Unreachable => "no-route",
        NextHop::Denied(Denial::Blackhole) => "blackhole",
        NextHop::Denied(Denial::Unreachable) => "unreachable",
        NextHop::Denied(Denial::Prohibit) => "prohibit",
        NextHop::NotOurs => "kernel",
    };
    let name = |id: InterfaceId| {
        snapshot.interfaces.get(id.index()).map(|it| it.name.clone()).unwrap_or_default()
    };
    let tunnel = way.tunnel.map(|Through { vni, ends: (local, remote, port), outer }| TunnelWay {
        vni,
        local: local.to_string(),
        remote: remote.to_string(),
        port,
        underlay: name(outer.interface),
        next_hop: hop(&snapshot.roads, &outer),
    });
    Way {
        route: route.to_owned(),
        interface: way.step.map(|step| name(step.interface)),
        next_hop: way.step.map(|step| hop(&snapshot.roads, &step)),
        tunnel,
        mtu: way.mtu,
    }
}

fn hop(roads: &Roads, step: &Step) -> Hop {
    let id = roads.neighbours.get(&(step.interface, step.address));
    let failed = id.and_then(|id| roads.adjacency(*id)).is_some_and(|it| it.failed);
    let state = match step.mac {
        Some(_) => "known",
        None if failed => "failed",
        None => "unknown",
    };
    Hop {
        address: step.address.to_string(),
        mac: step.mac.map(|mac| mac.to_string()),
        state: state.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict before them ends with one.
    #[test]
    fn reasons_of_what_passes_have_no_colon() {
        for outcome in [Outcome::Exempt, Outcome::Answered] {
            assert!(!why(&outcome, false).contains(':'), "{}", why(&outcome, false));
        }
    }
}
