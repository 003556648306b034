//! What does the administrator want?
//!
//! Files and flags are read into a tree that remembers where everything is written ([`tree`]);
//! objects are read from the tree field by field ([`object`], [`gateway`], [`pool`],
//! [`nat_rule`]), then compared with each other ([`whole`]). Only a [`Config`] in which nothing
//! is wrong leaves this module; otherwise all mistakes do, in one go.

mod address;
mod ask;
mod changes;
mod events;
mod field;
mod flags;
mod forward;
mod gateway;
mod host;
mod json_schema;
mod nat_rule;
mod object;
mod pool;
mod problem;
mod source;
mod succession;
#[cfg(test)]
mod succession_tests;
#[cfg(test)]
mod tests;
mod tree;
mod tuning;
mod whole;
mod yaml;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use conntrack::{PoolId, PoolSettings, Timestamp, UnsolicitedSyn};
use dataplane::forward::{PortForward, StaticNat};
use dataplane::rule::Rule;
use dataplane::snapshot::{Policy, Refused};

use crate::cli::GatewayArgs;

pub(crate) use address::AddressRange;
pub(crate) use changes::{failure, needs_restart, what_changes};
pub(crate) use events::Events;
pub(crate) use field::typing_mistakes;
pub(crate) use gateway::{Gateway, LogFormat, Mode, OnExit, ReceiveSteering, Tunnels};
pub(crate) use host::host_addresses;
pub(crate) use json_schema::json_schema;
pub(crate) use problem::{ConfigErrors, Problem};
pub(crate) use source::{Stamps, stamps};
pub(crate) use succession::{Succession, relieved};
pub(crate) use tuning::{Tuned, Tuning, all_values, gateway_keys};

use field::Field;
use object::{Object, Objects};
use problem::{Origin, Place, Problems};
use tree::{Node, Value};

/// The pool of the addresses of all `StaticNat`s. No object can have this name.
pub(crate) const STATIC_POOL: &str = "(static)";

/// A pool, validated; its index in [`Config::pools`] is its [`PoolId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolConfig {
    /// Its name.
    pub(crate) name: String,
    /// The profile that its settings begin with.
    pub(crate) profile: &'static str,
    /// Its settings.
    pub(crate) settings: PoolSettings,
    /// Its addresses, without overlap, in the order given.
    pub(crate) ranges: Vec<AddressRange>,
}

/// A configuration in which nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Settings of the gateway as a whole.
    pub(crate) gateway: Gateway,
    /// Pools; at least one.
    pub(crate) pools: Vec<PoolConfig>,
    /// Rules; at least one, no ties.
    pub(crate) rules: Vec<Rule>,
    /// Public ports that lead to pods.
    pub(crate) forwards: Vec<PortForward>,
    /// Public addresses that are pods'; their pool is the one after all configured ones.
    pub(crate) statics: Vec<StaticNat>,
    /// What is allowed, but has a price.
    pub(crate) warnings: Vec<Problem>,
}

/// Objects as they were read, before anything is set over them.
#[derive(Debug)]
pub(crate) struct Written {
    args: GatewayArgs,
    objects: Objects,
    whole: Place,
    problems: Problems,
}

impl Written {
    /// Reads what `args` say: the objects of `--config`, or what the other flags describe. Mistakes show when a
    /// [`Config`] is made of it.
    pub(crate) fn read(args: &GatewayArgs) -> Self {
        let mut problems = Problems::default();
        let (objects, whole) = if let Some(path) = &args.config {
            flags::refuse_beside_config(args, &mut problems);
            let documents = source::read(Path::new(path), &mut problems);
            let objects = Objects::read(documents, &mut problems);
            (objects, Place::of(Origin::Path(Arc::from(path.as_str()))))
        } else {
            (flags::objects(args, &mut problems), Place::flag("--config"))
        };
        Self { args: args.clone(), objects, whole, problems }
    }

    /// The configuration with what `tuning` sets; flags override settings of the `Gateway`. No pool may have one of
    /// the addresses of the `host`.
    ///
    /// # Errors
    /// Every mistake in flags, objects and settings.
    pub(crate) fn config(
        &self,
        host: &[Ipv4Addr],
        tuning: &Tuning,
    ) -> Result<Config, ConfigErrors> {
        let mut objects = self.objects.clone();
        tuning.over_pools(&mut objects.pools);
        let problems = self.problems.clone();
        assemble(objects, (&self.args, tuning), &self.whole, host, problems)
    }
}

impl Config {
    /// The profile of each pool, by its name.
    pub(crate) fn profiles(&self) -> impl Iterator<Item = (String, &'static str)> {
        self.pools.iter().map(|pool| (pool.name.clone(), pool.profile))
    }

    /// The configuration that `args` say, with nothing set over it.
    ///
    /// # Errors
    /// Every mistake in flags and objects.
    pub(crate) fn load(args: &GatewayArgs, host: &[Ipv4Addr]) -> Result<Self, ConfigErrors> {
        Written::read(args).config(host, &Tuning::default())
    }

    /// The policy of this configuration, with all port blocks free.
    pub(crate) fn policy(&self, generation: u32) -> Policy {
        let first = Policy { generation: generation.saturating_sub(1), ..Policy::default() };
        // Nobody has anything that could stand against it.
        let succession = succession::Succession::new(self, &first, Timestamp::default());
        succession.policy
    }
}

/// Reads what is in the objects and compares them.
fn assemble(
    objects: Objects,
    args: (&GatewayArgs, &Tuning),
    whole: &Place,
    host: &[Ipv4Addr],
    mut problems: Problems,
) -> Result<Config, ConfigErrors> {
    let gateway = read_gateway(&objects, args, whole, &mut problems);
    let objects_place = on_unmapped(&objects);
    let pools = read_all(objects.pools, pool::read, &mut problems);
    let rules = read_all(objects.rules, nat_rule::read, &mut problems);
    let forwards = read_all(objects.forwards, forward::read_forward, &mut problems);
    let statics = read_all(objects.statics, forward::read_static, &mut problems);
    if !objects.incomplete {
        whole::refuse_missing(&pools, &rules, whole, &mut problems);
    }
    whole::check(&pools, &rules, host, &mut problems);
    whole::warn_unused(&pools, &rules, &forward::addresses(&forwards), &mut problems);
    if !objects.incomplete {
        forward::check(&forwards, &statics, (&pools, &rules), host, &mut problems);
    }
    warn_of_answers_to_scans(&gateway, objects_place.as_ref(), &pools, &mut problems);
    let warnings = problems.finish()?;
    let rules = whole::compile(&pools, rules);
    let forwards = forward::compile_forwards(forwards, &pools);
    let statics = forward::compile_statics(statics, PoolId(pools.len() as u16));
    let pool_config = |(name, spec): whole::NamedPool| {
        let spec = spec?;
        let ranges = spec.ranges.into_iter().map(|range| range.value).collect();
        Some(PoolConfig {
            name: name.value,
            profile: spec.profile,
            settings: spec.settings,
            ranges,
        })
    };
    let pools = pools.into_iter().filter_map(pool_config).collect();
    Ok(Config { gateway, pools, rules, forwards, statics, warnings })
}

/// Where the `Gateway` says what strangers get.
fn on_unmapped(objects: &Objects) -> Option<Place> {
    let gateway = objects.gateways.first()?;
    Some(gateway.spec().member("onUnmapped")?.place())
}

/// Only pools that hold unsolicited SYNs wait as long as RFC 5382 REQ-4 asks.
fn warn_of_answers_to_scans(
    gateway: &Gateway,
    place: Option<&Place>,
    pools: &[whole::NamedPool],
    problems: &mut Problems,
) {
    let mut settings = pools.iter().filter_map(|(_, spec)| spec.as_ref()).map(|s| &s.settings);
    let at_once = settings.any(|s| s.unsolicited_syn == UnsolicitedSyn::Drop);
    if let (Some(place), true, true) = (place, at_once, gateway.answers.unmapped != Refused::Silent)
    {
        let why = "a SYN that nobody waits for is answered at once: it loses 5382-REQ-4.1, and scans \
                   show the gateway";
        let remedy = "write silent, or unsolicitedSyn: delayed in the pools";
        problems.warn(place, "requirement lost", why, remedy);
    }
}

fn read_gateway(
    objects: &Objects,
    (args, tuning): (&GatewayArgs, &Tuning),
    whole: &Place,
    problems: &mut Problems,
) -> Gateway {
    if let [first, others @ ..] = &objects.gateways[..] {
        for other in others {
            let why = format!("there is already one at {}", first.name.place.origin);
            problems.error(&other.name.place, "second Gateway", why, "keep one of them");
        }
    }
    let mut spec = objects.gateways.first().map_or_else(
        || Node { origin: whole.origin.clone(), value: Value::Map(Vec::new()) },
        |object| object.spec.clone(),
    );
    for (path, value) in flags::gateway_settings(args) {
        spec.set(path, value);
    }
    tuning.over_gateway(&mut spec);
    // In what could not be read there may be a Gateway that names the interfaces.
    let complete = !objects.gateways.is_empty() || !objects.incomplete;
    gateway::read(&Field::new(&spec, "spec"), complete, problems)
}

fn read_all<T>(
    objects: Vec<Object>,
    read: fn(&Field<'_>, &mut Problems) -> Option<T>,
    problems: &mut Problems,
) -> Vec<(field::Placed<String>, Option<T>)> {
    let read_one = |object: Object| {
        let spec = read(&object.spec(), problems);
        (object.name, spec)
    };
    objects.into_iter().map(read_one).collect()
}
