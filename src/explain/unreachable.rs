//! Is it known already that the packet will not get there? The routes may be right and the neighbour dead.

use conntrack::Realm;
use dataplane::DropReason;

use super::model::{Explained, Hop, Way};

/// Takes back that the flow passes, if the kernel has asked in vain for its next hop; and says so of the way back.
pub(super) fn judge(explained: &mut Explained) {
    let reason = DropReason::NeighbourUnresolved;
    let passes = matches!(explained.verdict.as_str(), "session" | "opens" | "exempt");
    let Some(last) = explained.legs.last().filter(|_| passes) else { return };
    let (there, back) = (last.there.as_ref().and_then(dead), last.back.as_ref().and_then(dead));
    let asked_in_vain = |hop: &Hop, interface: &str| {
        format!(
            "next hop {} on {interface} did not answer when the kernel asked for it",
            hop.address
        )
    };
    if let Some((hop, interface)) = there {
        explained.why = format!(
            "{}; but its {}. The packet waits while the kernel asks again, 3 s at most; without an answer it is dropped \
             as {} and its sender is told that the host is unreachable (ICMP 3/1): {}",
            explained.why,
            asked_in_vain(hop, interface),
            reason.name(),
            reason.remedy(),
        );
        "unreachable".clone_into(&mut explained.verdict);
        explained.reason = Some(reason.name().to_owned());
    } else if let Some((hop, interface)) = back {
        explained.why = format!(
            "{}; but nothing comes back: there, the {}, so answers are dropped as {}: {}",
            explained.why,
            asked_in_vain(hop, interface),
            reason.name(),
            reason.remedy(),
        );
    }
}

/// Says that links are down, where that is why the flow does not pass or nothing comes back: the kernel takes its routes by
/// these away. `without_link`: the interfaces of a side that have no link.
pub(super) fn judge_links(explained: &mut Explained, without_link: &dyn Fn(Realm) -> Vec<String>) {
    let Some(last) = explained.legs.last() else { return };
    let (here, beyond) = match last.realm.as_str() {
        "internal" => (Realm::Internal, Realm::External),
        _ => (Realm::External, Realm::Internal),
    };
    let no_route = DropReason::NoRoute.name();
    let no_way_back = last.back.as_ref().is_some_and(|way| way.route == "no-route");
    let (ahead, behind) = (without_link(beyond), without_link(here));
    if explained.reason.as_deref() == Some(no_route) && !ahead.is_empty() {
        explained.why = format!("dropped as {no_route}: {}", links_down(&ahead));
    } else if no_way_back && !behind.is_empty() {
        explained.why =
            format!("{}; but nothing comes back: {}", explained.why, links_down(&behind));
    }
    if without_link(Realm::Internal)
        .iter()
        .chain(&without_link(Realm::External))
        .any(|name| *name == explained.arrival)
    {
        explained.why = format!(
            "nothing arrives by {0} now, its link is down; if it did: {1}",
            explained.arrival, explained.why
        );
    }
}

fn links_down(names: &[String]) -> String {
    let commands: Vec<String> = names.iter().map(|it| format!("`ip link set {it} up`")).collect();
    let (links, are) = if names.len() == 1 { ("link", "is") } else { ("links", "are") };
    format!(
        "the {links} of {} {are} down, and the kernel takes no route by what is down; {}, or look at the carrier",
        names.join(", "),
        commands.join(", ")
    )
}

/// The neighbour of a way that is known not to answer, and the interface that it is on.
fn dead(way: &Way) -> Option<(&Hop, &str)> {
    let tunnel = way.tunnel.as_ref().map(|it| (&it.next_hop, it.underlay.as_str()));
    let own = way.next_hop.as_ref().zip(way.interface.as_deref());
    [own, tunnel].into_iter().flatten().find(|(hop, _)| hop.state == "failed")
}

#[cfg(test)]
mod tests {
    use super::super::model::{Leg, TunnelWay};
    use super::*;

    fn hop(state: &str) -> Hop {
        Hop { address: "203.0.113.1".into(), mac: None, state: state.into() }
    }

    fn way(state: &str, tunnel: Option<&str>) -> Way {
        let tunnel = tunnel.map(|state| TunnelWay {
            vni: 7,
            local: "192.0.2.1".into(),
            remote: "192.0.2.2".into(),
            port: 4789,
            underlay: "eth9".into(),
            next_hop: hop(state),
        });
        let interface = Some("ext".to_owned());
        Way { route: "neighbour".into(), interface, next_hop: Some(hop(state)), tunnel, mtu: None }
    }

    fn judged(verdict: &str, there: Way, back: Way) -> Explained {
        let mut explained = explained(verdict, there, back);
        judge(&mut explained);
        explained
    }

    fn explained(verdict: &str, there: Way, back: Way) -> Explained {
        let mut leg: Leg = serde_json::from_value(serde_json::json!({
            "realm": "internal", "worker": 0, "verdict": verdict, "places": [], "limits": [], "turns_back": false,
        }))
        .unwrap();
        (leg.there, leg.back) = (Some(there), Some(back));
        Explained {
            from: "10.244.1.7".into(),
            to: "192.0.2.10:443".into(),
            protocol: "tcp".into(),
            arrival: "int".into(),
            verdict: verdict.into(),
            reason: None,
            why: "a session is opened, and it is translated".into(),
            legs: vec![leg],
        }
    }

    #[test]
    fn links_that_are_down_are_named_and_not_the_routes_that_went_with_them() {
        let lost = || Way { route: "no-route".into(), ..way("known", None) };
        let asked = |reason: Option<&str>, back, down: (&[&str], &[&str])| {
            let mut it = explained("opens", way("known", None), back);
            it.reason = reason.map(str::to_owned);
            "dropped as no-route: add a route".clone_into(&mut it.why);
            judge_links(&mut it, &|side| {
                let names = if side == Realm::Internal { down.0 } else { down.1 };
                names.iter().map(|name| (*name).to_owned()).collect()
            });
            it.why
        };
        let why = asked(Some("no-route"), way("known", None), (&[], &["ext"]));
        assert!(why.contains("the link of ext is down") && !why.contains("add a route"), "{why}");
        assert!(why.contains("ip link set ext up"), "{why}");
        // Another side's link, another reason, and none: as it was.
        for (reason, down) in [
            (Some("no-route"), (&["in"] as &[_], &[] as &[_])),
            (Some("no-rule"), (&[], &["ext"])),
            (Some("no-route"), (&[], &[])),
        ] {
            let why = asked(reason, way("known", None), down);
            assert_eq!(why, "dropped as no-route: add a route", "{reason:?} {down:?}");
        }
        let why = asked(None, lost(), (&["in"], &[]));
        assert!(why.contains("nothing comes back: the link of in is down"), "{why}");
        let why = asked(None, way("known", None), (&["int"], &[]));
        assert!(why.contains("nothing arrives by int now"), "{why}");
    }

    #[test]
    fn a_next_hop_that_failed_is_no_passage() {
        for verdict in ["session", "opens", "exempt"] {
            let it = judged(verdict, way("failed", None), way("known", None));
            assert_eq!(it.verdict, "unreachable");
            assert_eq!(it.reason.as_deref(), Some("neighbour-unresolved"));
            let text = super::super::text(&it, 80);
            for expected in ["UNREACHABLE", "203.0.113.1", "(ICMP 3/1)", "answers ARP"] {
                assert!(text.contains(expected), "no {expected} in\n{text}");
            }
            assert!(!text.contains("passes"), "{text}");
        }
        let it = judged("opens", way("known", Some("failed")), way("known", None));
        assert!(it.verdict == "unreachable" && it.why.contains("on eth9"), "{}", it.why);
    }

    #[test]
    fn one_that_was_not_asked_for_yet_is() {
        for state in ["known", "unknown"] {
            let it = judged("opens", way(state, Some(state)), way(state, None));
            assert_eq!((it.verdict.as_str(), it.reason), ("opens", None));
        }
        let it = judged("opens", way("known", None), way("failed", None));
        assert!(it.verdict == "opens" && it.why.contains("nothing comes back"), "{}", it.why);
        let refused = judged("refused", way("failed", None), way("failed", None));
        assert_eq!(refused.verdict, "refused");
    }
}
