//! How does an explanation look for people?

use std::fmt::Write;

use super::model::{Explained, Hop, Leg, Way};
use crate::view::{millis, wrap};

/// Columns of the names at the left.
const NAMES: usize = 12;

/// The explanation, in lines of `width` columns at most.
pub(crate) fn text(it: &Explained, width: usize) -> String {
    let mut lines = Lines { text: String::new(), width };
    let any = if it.protocol == "tcp" || it.protocol == "udp" { " (any port)" } else { "" };
    let any = if it.from.contains(':') { "" } else { any };
    lines.whole(&format!(
        "{}{any} → {} {}, arriving at {}",
        it.from, it.to, it.protocol, it.arrival
    ));
    for (number, leg) in it.legs.iter().enumerate() {
        if number > 0 {
            lines.whole("then, turned back to the pods:");
        }
        leg_lines(&mut lines, leg);
    }
    let verdict = match it.verdict.as_str() {
        "refused" => "REFUSED",
        "unreachable" => "UNREACHABLE",
        "kernel" => "NOT NATGATE'S",
        _ => "passes",
    };
    let verdict = if it.verdict == "answered" { "answered" } else { verdict };
    lines.named("verdict", &format!("{verdict}: {}", it.why));
    lines.text
}

struct Lines {
    text: String,
    width: usize,
}

impl Lines {
    fn whole(&mut self, text: &str) {
        wrap(&mut self.text, text, 0, self.width);
    }

    fn named(&mut self, name: &str, value: &str) {
        wrap(&mut self.text, &format!("  {name:<0$}{value}", NAMES - 2), NAMES, self.width);
    }
}

fn leg_lines(lines: &mut Lines, leg: &Leg) {
    match (&leg.rule, &leg.pool) {
        (Some(rule), Some(pool)) => {
            let profile = leg.profile.as_ref().map_or_else(String::new, |it| format!(" ({it})"));
            lines.named("rule", &format!("{rule} → pool {pool}{profile}"));
        }
        (Some(rule), None) if leg.verdict == "exempt" => {
            lines.named("rule", &format!("{rule} → exempt: not translated"));
        }
        (Some(rule), None) => lines.named("rule", &format!("{rule} → no pool")),
        (None, Some(pool)) => lines.named("rule", &format!("none (from outside); pool {pool}")),
        (None, None) if leg.realm == "internal" && leg.verdict == "refused" => {
            lines.named("rule", "none matches");
        }
        (None, None) => {}
    }
    if let Some(means) = &leg.means {
        lines.named("public", &public(leg, means));
    }
    if let Some(internal) = &leg.internal {
        lines.named("pod", internal);
    }
    if let (Some(state), Some(left)) = (&leg.state, leg.expires_in_ms) {
        let left = millis(u64::from(left));
        lines.named("session", &format!("{state}, ends in {left} if nothing comes"));
    }
    if !leg.limits.is_empty() {
        let of = |it: &super::model::LimitUsed| format!("{} {} of {}", it.limit, it.used, it.most);
        let limits: Vec<String> = leg.limits.iter().map(of).collect();
        lines.named("limits", &limits.join(" · "));
    }
    if leg.turns_back {
        lines.named("there", "a public address of this gateway: it turns back to the pods");
    }
    for (name, way) in [("there", &leg.there), ("back", &leg.back)] {
        if let Some(way) = way {
            lines.named(name, &way_text(way));
        }
    }
}

fn public(leg: &Leg, means: &str) -> String {
    let how = match means {
        "session" => "by its session",
        "mapping" => "kept: its mapping has it",
        "fixed" => "by a port forward or a 1:1 address",
        "scattered" => "drawn from the region that DNS queries share",
        "preserved" => "the pod's own port",
        "held-block" => "a new port of a block that the subscriber holds",
        "shared-port" => "a port that the subscriber uses towards others",
        "new-block" => "a port of a further block",
        "new-block-elsewhere" => "a port of a further block, on another address than its own",
        "replaced" => "the port of a connection that is over",
        "address" => "no port; this protocol has none",
        other => other,
    };
    if let Some(public) = &leg.public {
        return format!("{public} ({how})");
    }
    let place = |it: &super::model::Place| match (it.first, it.last) {
        (0, 0) => it.address.clone(),
        (first, last) if first == last => format!("{}:{first}", it.address),
        (first, last) => format!("{}:{first}-{last}", it.address),
    };
    let mut places: Vec<String> = leg.places.iter().take(3).map(place).collect();
    if let Some(more) = leg.places.len().checked_sub(3).filter(|more| *more > 0) {
        places.push(format!("{more} more"));
    }
    format!("{how}: {}", places.join(" or "))
}

fn way_text(way: &Way) -> String {
    let mtu = way.mtu.map_or_else(String::new, |mtu| format!(" · MTU {mtu}"));
    let (Some(interface), Some(hop)) = (&way.interface, &way.next_hop) else {
        return match way.route.as_str() {
            "no-route" => "no route".to_owned(),
            "kernel" => "this host itself, or an interface that natgate does not serve".to_owned(),
            denied => format!("a route refuses it ({denied})"),
        };
    };
    let mut text = format!("{interface}, next hop {}", hop_text(hop));
    if let Some(it) = &way.tunnel {
        let _ = write!(
            text,
            " · VXLAN {} {} → {}:{} by {}, next hop {}",
            it.vni,
            it.local,
            it.remote,
            it.port,
            it.underlay,
            hop_text(&it.next_hop)
        );
    }
    text + &mtu
}

fn hop_text(hop: &Hop) -> String {
    match (&hop.mac, hop.state.as_str()) {
        (Some(mac), _) => format!("{} ({mac})", hop.address),
        (None, "failed") => format!("{} (does NOT answer)", hop.address),
        (None, _) => format!("{} (not asked for yet: packets wait)", hop.address),
    }
}
