//! What is different between two configurations, in words? And what of it can't be while the gateway runs?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::problem::{ConfigErrors, Origin, Place, Problem};
use super::{Config, Events, Gateway, PoolConfig};

/// Names that a line lists.
const NAMED: usize = 5;

/// A failure that has nothing to do with what is written.
pub(crate) fn failure(why: &str) -> ConfigErrors {
    let place = Place::of(Origin::Path(Arc::from("configuration")));
    let (what, remedy) = ("cannot be read".to_owned(), "try again".to_owned());
    ConfigErrors(vec![Problem { what, place, why: why.to_owned(), remedy }])
}

/// The settings of the gateway that differ and are fixed from the start on.
pub(crate) fn needs_restart(running: &Gateway, wanted: &Gateway) -> Vec<Problem> {
    // Every field, so that none is forgotten.
    let Gateway {
        internal,
        external,
        workers,
        queues,
        mode,
        busy_poll,
        tunnels,
        receive_steering,
        socket,
        state_dir,
        state_file,
        metrics,
        log: _,
        log_format,
        on_exit: _,
        sessions,
        answers: _,
        mss_clamp: _,
        slow_path_budget: _,
        latency_sample: _,
        drain_grace: _,
        error_interfaces: _,
        events,
    } = running;
    let pair = |field: &'static str, old: &dyn Debug, new: &dyn Debug| {
        (field, format!("{old:?}"), format!("{new:?}"))
    };
    let fixed = [
        pair("interfaces.internal", internal, &wanted.internal),
        pair("interfaces.external", external, &wanted.external),
        pair("workers", workers, &wanted.workers),
        pair("queues", queues, &wanted.queues),
        pair("mode", mode, &wanted.mode),
        pair("busyPoll", busy_poll, &wanted.busy_poll),
        pair("tunnels", tunnels, &wanted.tunnels),
        pair("receiveSteering", receive_steering, &wanted.receive_steering),
        pair("socket", socket, &wanted.socket),
        pair("stateDir", state_dir, &wanted.state_dir),
        pair("stateFile", state_file, &wanted.state_file),
        pair("metrics", metrics, &wanted.metrics),
        pair("logFormat", log_format, &wanted.log_format),
        pair("sessions", sessions, &wanted.sessions),
    ];
    let differing = fixed.into_iter().filter(|(_, old, new)| old != new);
    let words =
        |(field, old, new): (&str, String, String)| (field.to_owned(), word(&old), word(&new));
    let problem = |(field, old, new): (String, String, String)| Problem {
        what: "needs a restart".to_owned(),
        place: Place { origin: Origin::Path(Arc::from("Gateway")), field: format!("spec.{field}") },
        why: format!("it is {old} in the running gateway and would be {new}"),
        remedy: "restart natgate, or take the change back".to_owned(),
    };
    differing.map(words).chain(events_changed(events, &wanted.events)).map(problem).collect()
}

/// What of `spec.events` differs, as objects say it; but whether sessions are recorded, which follows a reload.
fn events_changed(running: &Events, wanted: &Events) -> Vec<(String, String, String)> {
    let (old, new) = (running.spec(), wanted.spec());
    let fields = old.as_object().into_iter().flatten();
    let differing =
        fields.filter(|(name, value)| *name != "sessions" && new[name.as_str()] != **value);
    let words = differing.map(|(name, value)| {
        (format!("events.{name}"), written(value), written(&new[name.as_str()]))
    });
    words.collect()
}

/// A value of an object, as YAML on one line.
fn written(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "absent".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Object(fields) => {
            let set = fields.iter().filter(|(_, value)| !value.is_null());
            let words: Vec<String> =
                set.map(|(name, value)| format!("{name}: {}", written(value))).collect();
            format!("{{{}}}", words.join(", "))
        }
        other => other.to_string(),
    }
}

/// A value as people would write it.
fn word(text: &str) -> String {
    match text.strip_prefix("Some(").and_then(|text| text.strip_suffix(')')) {
        Some(inner) => inner.to_owned(),
        None if text == "None" => "automatic".to_owned(),
        // Names and paths as they are; variants of an enumeration as objects have them.
        None if text.contains('"') => text.replace('"', ""),
        None => text.to_lowercase(),
    }
}

/// A line for each kind of object that differs.
pub(crate) fn what_changes(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if old.gateway != new.gateway {
        lines.push("gateway settings changed".to_owned());
    }
    for pool in &new.pools {
        let before = old.pools.iter().find(|before| before.name == pool.name);
        lines.extend(before.and_then(|before| pool_line(before, pool)));
    }
    let pools = |config: &Config| named(&config.pools, |pool| &pool.name, |_| String::new());
    lines.extend(counted("pools", &pools(old), &pools(new)));
    let rules = |config: &Config| {
        // A pool's number says nothing: the name does.
        named(
            &config.rules,
            |rule| &rule.name,
            |rule| {
                let pool = match rule.action {
                    dataplane::rule::Action::Pool(id) => config.pools.get(id.index()),
                    dataplane::rule::Action::Exempt => None,
                };
                let (priority, from, to) = (rule.priority, &rule.from, &rule.to);
                let (except, services) = (&rule.except, &rule.services);
                let pool = pool.map(|pool| &pool.name);
                format!("{priority} {from:?} {to:?} {except:?} {services:?} {pool:?}")
            },
        )
    };
    lines.extend(counted("rules", &rules(old), &rules(new)));
    let forwards = |config: &Config| {
        named(
            &config.forwards,
            |f| &f.name,
            |f| {
                let (ports, vni) = (&f.ports, f.vni);
                format!(
                    "{} {} {ports:?} {} {} {vni:?}",
                    f.address, f.protocol, f.target, f.target_port
                )
            },
        )
    };
    lines.extend(counted("port forwards", &forwards(old), &forwards(new)));
    let statics = |config: &Config| {
        named(
            &config.statics,
            |one| &one.name,
            |one| format!("{} {} {:?}", one.address, one.target, one.vni),
        )
    };
    lines.extend(counted("1:1 addresses", &statics(old), &statics(new)));
    lines
}

fn pool_line(old: &PoolConfig, new: &PoolConfig) -> Option<String> {
    let addresses = |pool: &PoolConfig| -> BTreeSet<Ipv4Addr> {
        pool.ranges.iter().flat_map(|range| range.addresses()).collect()
    };
    let (before, after) = (addresses(old), addresses(new));
    let (come, left) = (after.difference(&before).count(), before.difference(&after).count());
    let mut words = Vec::new();
    if come > 0 {
        words.push(format!("{come} more address{}", if come == 1 { "" } else { "es" }));
    }
    if left > 0 {
        words.push(format!("{left} address{} removed", if left == 1 { "" } else { "es" }));
    }
    if old.settings != new.settings {
        words.push("settings changed".to_owned());
    }
    (!words.is_empty()).then(|| format!("pool {}: {}", new.name, words.join(", ")))
}

fn named<T>(
    objects: &[T],
    name: impl Fn(&T) -> &String,
    content: impl Fn(&T) -> String,
) -> BTreeMap<String, String> {
    objects.iter().map(|object| (name(object).clone(), content(object))).collect()
}

/// How many came, left and changed; the first few by name.
fn counted(
    kind: &str,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Option<String> {
    let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| -> Vec<String> {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
    };
    let differs = |name: &&String| old.get(*name).is_some_and(|before| *before != new[*name]);
    let changed: Vec<String> = new.keys().filter(differs).cloned().collect();
    let words: Vec<String> =
        [("added", only(new, old)), ("removed", only(old, new)), ("changed", changed)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| {
                let more = if names.len() > NAMED { ", …" } else { "" };
                let first = names[..names.len().min(NAMED)].join(", ");
                format!("{} {what} ({first}{more})", names.len())
            })
            .collect();
    (!words.is_empty()).then(|| format!("{kind}: {}", words.join(", ")))
}
