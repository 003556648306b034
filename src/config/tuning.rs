//! What is set while the gateway runs, over what is written?
//!
//! A setting has the name of its field: `log`, `pools.NAME.timers.udp`. Its value takes the place of the one in the
//! object before that is read, so that it is checked as if it were written there. It holds until it is reset or the
//! gateway ends; when the files are read again, it is laid over them again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conntrack::PoolSettings;

use super::field::nearest;
use super::object::Object;
use super::problem::{ConfigErrors, Origin, Place, Problem, Problems};
use super::tree::{Node, Value};
use super::yaml;
use super::{Config, Gateway, PoolConfig};

/// What keys of pools begin with.
const POOLS: &str = "pools";
/// What an unset limit is called, and what unsets one.
pub(crate) const NONE: &str = "none";

/// The path of a field, and its value for people.
type Row<T> = (&'static str, fn(&T) -> String);

/// Settings of the gateway that can change while it runs, in the order in which they are listed.
const GATEWAY: &[Row<Gateway>] = &[
    ("log", |it| it.log.clone()),
    ("slowPathBudget", |it| it.slow_path_budget.0.to_string()),
    ("latencySample", |it| it.latency_sample.0.to_string()),
    ("answerPing", |it| it.answers.ping.to_string()),
    ("icmpErrors.rate", |it| it.answers.errors_per_second.to_string()),
    ("icmpErrors.perSubscriber", |it| it.answers.errors_per_subscriber.to_string()),
];

/// Settings of a pool that can change while the gateway runs.
const POOL: &[Row<PoolSettings>] = &[
    ("timers.udp", |it| seconds(it.timers.udp)),
    ("timers.udpByPort", by_port),
    ("timers.tcpEstablished", |it| seconds(it.timers.tcp_established)),
    ("timers.tcpOpening", |it| seconds(it.timers.tcp_opening)),
    ("timers.tcpClosing", |it| seconds(it.timers.tcp_closing)),
    ("timers.tcpTimeWait", |it| seconds(it.timers.tcp_time_wait)),
    ("timers.tcpReset", |it| seconds(it.timers.tcp_reset)),
    ("timers.tcpIncomingSyn", |it| seconds(it.timers.tcp_incoming_syn)),
    ("timers.icmpQuery", |it| seconds(it.timers.icmp_query)),
    ("timers.other", |it| seconds(it.timers.other)),
    ("timers.fragment", |it| seconds(it.timers.fragment)),
    ("quota.blocks", |it| it.quota.blocks.to_string()),
    ("quota.blocksSoft", |it| limit(it.quota.blocks_soft)),
    ("quota.sessions", |it| it.quota.sessions.to_string()),
    ("quota.sessionsSoft", |it| limit(it.quota.sessions_soft)),
    ("quota.sessionsPerMapping", |it| limit(it.quota.sessions_per_mapping)),
    ("quota.halfOpen", |it| it.quota.half_open.to_string()),
    ("quota.tcp", |it| limit(it.quota.tcp)),
    ("quota.udp", |it| limit(it.quota.udp)),
    ("quota.icmp", |it| limit(it.quota.icmp)),
    ("quota.newPerSecond", |it| limit(it.quota.new_per_second)),
    ("quota.burst", |it| it.quota.burst.to_string()),
    ("holdDown.seconds", |it| seconds(it.hold_down.port)),
    ("holdDown.blockSeconds", |it| seconds(it.hold_down.block)),
];

fn seconds(time: Duration) -> String {
    time.as_secs().to_string()
}

/// As it would be written.
fn by_port(it: &PoolSettings) -> String {
    let timer = |(port, idle): &(u16, Duration)| {
        let answered = it.timers.udp_answered.iter().find(|(other, _)| other == port);
        let idle = seconds(*idle);
        match answered {
            Some((_, answered)) => {
                format!("{port}: {{idle: {idle}, answered: {}}}", seconds(*answered))
            }
            None => format!("{port}: {idle}"),
        }
    };
    let timers: Vec<String> = it.timers.udp_by_port.iter().map(timer).collect();
    format!("{{{}}}", timers.join(", "))
}

fn limit(limit: Option<u32>) -> String {
    limit.map_or_else(|| NONE.to_owned(), |number| number.to_string())
}

/// What somebody set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As it was given.
    pub(crate) value: String,
    /// Who.
    pub(crate) by: String,
    /// When, in seconds since 1970.
    pub(crate) at: u64,
}

/// One key with its value now, as it is written, and who says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuned<'a> {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) written: String,
    pub(crate) setting: Option<&'a Setting>,
}

/// All that is set, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tuning(BTreeMap<String, Setting>);

impl Tuning {
    /// The same with `changes`: keys with their new values, or `None` for what is written.
    ///
    /// # Errors
    /// Every key that `config` has not.
    pub(crate) fn with(
        &self,
        changes: &[(String, Option<String>)],
        (by, at): (&str, u64),
        config: &Config,
    ) -> Result<Self, ConfigErrors> {
        let known = keys(config);
        let is_known = |key: &String| known.contains(key) || self.0.contains_key(key);
        let unknown = changes.iter().filter(|(key, _)| !is_known(key));
        let problems: Vec<Problem> =
            unknown.map(|(key, value)| refuse(key, value.is_none(), &known)).collect();
        if !problems.is_empty() {
            return Err(ConfigErrors(problems));
        }
        let mut all = self.0.clone();
        for (key, value) in changes {
            match value {
                Some(value) => {
                    let setting = Setting { value: value.clone(), by: by.to_owned(), at };
                    all.insert(key.clone(), setting);
                }
                None => drop(all.remove(key)),
            }
        }
        Ok(Self(all))
    }

    /// All keys that are set.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Forgets what is set for pools that `config` has not; the keys of that.
    pub(crate) fn forget_others(&mut self, config: &Config) -> Vec<String> {
        let known = keys(config);
        let lost: Vec<String> = self.0.keys().filter(|key| !known.contains(key)).cloned().collect();
        self.0.retain(|key, _| known.contains(key));
        lost
    }

    /// Lays what is set for the gateway over its `spec`.
    pub(super) fn over_gateway(&self, spec: &mut Node) {
        for (key, setting) in self.0.iter().filter(|(key, _)| pool_of(key).is_none()) {
            lay(spec, key, key, setting);
        }
    }

    /// Lays what is set for pools over their objects.
    pub(super) fn over_pools(&self, pools: &mut [Object]) {
        for (key, setting) in &self.0 {
            let Some((name, path)) = pool_of(key) else { continue };
            for pool in pools.iter_mut().filter(|pool| pool.name.value == name) {
                lay(&mut pool.spec, key, path, setting);
            }
        }
    }

    /// All settings that there are: `now` is in force, and `written` would be without what is set.
    pub(crate) fn list(&self, now: &Config, written: &Config) -> Vec<Tuned<'_>> {
        let values = all_values(written);
        let row = |(key, value): (String, String)| {
            let setting = self.0.get(&key);
            let written = values.get(&key).cloned().unwrap_or_else(|| NONE.to_owned());
            Tuned { key, value, written, setting }
        };
        values_in_order(now).into_iter().map(row).collect()
    }
}

/// The keys that do not depend on the pools that there are.
pub(crate) fn gateway_keys() -> Vec<&'static str> {
    GATEWAY.iter().map(|(key, _)| *key).collect()
}

/// Every setting of `config` with its value.
pub(crate) fn all_values(config: &Config) -> BTreeMap<String, String> {
    values_in_order(config).into_iter().collect()
}

fn values_in_order(config: &Config) -> Vec<(String, String)> {
    let gateway = GATEWAY.iter().map(|(path, value)| ((*path).to_owned(), value(&config.gateway)));
    let of_pool = |pool: &'_ PoolConfig| -> Vec<(String, String)> {
        let key = |path: &str| format!("{POOLS}.{}.{path}", pool.name);
        POOL.iter().map(|(path, value)| (key(path), value(&pool.settings))).collect()
    };
    gateway.chain(config.pools.iter().flat_map(of_pool)).collect()
}

fn keys(config: &Config) -> Vec<String> {
    values_in_order(config).into_iter().map(|(key, _)| key).collect()
}

/// The pool that a key speaks of, and the path of the field there.
fn pool_of(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(POOLS)?.strip_prefix('.')?.split_once('.')
}

/// Puts the value of `key` at `path` below `spec`; [`NONE`] takes away what is there.
fn lay(spec: &mut Node, key: &str, path: &str, setting: &Setting) {
    let origin = Origin::Setting(Arc::from(key));
    let path: Vec<&str> = path.split('.').collect();
    if setting.value == NONE {
        return spec.remove(&path);
    }
    let value = match path[..] {
        // Whatever it looks like.
        ["log"] => Value::Text(setting.value.clone()),
        _ => group(&setting.value, &origin).unwrap_or_else(|| Value::from_plain(&setting.value)),
    };
    spec.set(&path, Node { origin, value });
}

/// What `text` says if it is a group of fields in braces, all of it from `origin`.
fn group(text: &str, origin: &Origin) -> Option<Value> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut problems = Problems::default();
    let mut documents = yaml::read(&Arc::from(""), text, &mut problems);
    problems.finish().ok()?;
    let mut node = documents.pop().filter(|_| documents.is_empty())?;
    from_origin(&mut node, origin);
    Some(node.value)
}

fn from_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| from_origin(item, origin)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.origin = origin.clone();
            from_origin(&mut entry.value, origin);
        }),
        _ => {}
    }
}

fn refuse(key: &str, is_reset: bool, known: &[String]) -> Problem {
    let key_at = if is_reset { Origin::Reset } else { Origin::Setting };
    let place = Place::of(key_at(Arc::from(key)));
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_lowercase();
    let mut near: Vec<&str> = nearest(key, &names).into_iter().collect();
    // Most of a key is the way to it: who types only its end means one of these.
    near.extend(names.iter().filter(|name| last(name) == last(key)));
    near.dedup();
    near.truncate(3);
    let remedy = match near[..] {
        [] => "`natgate get` lists what can be set; everything else is in the objects".to_owned(),
        _ => format!("did you mean {}?", super::field::any_of(&near)),
    };
    let why = "there is no setting of this name that can change at run time".to_owned();
    Problem { what: "unknown key".to_owned(), place, why, remedy }
}
