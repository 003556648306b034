//! What do the flags of `run` and `check` say? The same as objects would: they become a tree too.

use crate::cli::GatewayArgs;

use super::field::Placed;
use super::object::{Object, Objects};
use super::problem::{Origin, Place, Problems};
use super::tree::{Entry, Node, Value};

/// Priority of the rule that `--exempt` makes: before the rule that `--from` makes.
const EXEMPT_PRIORITY: i64 = 500;

/// A setting of the `Gateway` that a flag gives: its path in `spec` and its value.
type Setting = (&'static [&'static str], Node);

/// The settings of the gateway that flags give.
pub(super) fn gateway_settings(args: &GatewayArgs) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut add = |flag, path, value| settings.push((path, node(flag, value)));
    if !args.internal.is_empty() {
        add("--internal", &["interfaces", "internal"][..], texts("--internal", &args.internal));
    }
    if !args.external.is_empty() {
        add("--external", &["interfaces", "external"][..], texts("--external", &args.external));
    }
    let plain: [(&'static str, &'static [&'static str], &Option<String>); 5] = [
        ("--workers", &["workers"], &args.workers),
        ("--queues", &["queues"], &args.queues),
        ("--sessions", &["sessions"], &args.sessions),
        ("--mss-clamp", &["mssClamp"], &args.mss_clamp),
        ("--grace", &["drain", "grace"], &args.grace),
    ];
    for (flag, path, value) in plain {
        if let Some(value) = value {
            add(flag, path, Value::from_plain(value));
        }
    }
    let text: [(&'static str, &'static [&'static str], &Option<String>); 9] = [
        ("--mode", &["mode"], &args.mode),
        ("--receive-steering", &["receiveSteering"], &args.receive_steering),
        ("--socket", &["socket"], &args.socket),
        ("--state-dir", &["stateDir"], &args.state_dir),
        ("--state-file", &["stateFile"], &args.state_file),
        ("--metrics", &["metrics"], &args.metrics),
        ("--log", &["log"], &args.log),
        ("--log-format", &["logFormat"], &args.log_format),
        ("--on-exit", &["onExit"], &args.on_exit),
    ];
    for (flag, path, value) in text {
        if let Some(value) = value {
            add(flag, path, Value::Text(value.clone()));
        }
    }
    if args.busy_poll {
        add("--busy-poll", &["busyPoll"], Value::Bool(true));
    }
    if args.no_tunnels {
        add("--no-tunnels", &["tunnels"], Value::Text("ignore".to_owned()));
    }
    settings
}

/// The pool and the rules that flags describe, when there is no `--config`.
pub(super) fn objects(args: &GatewayArgs, problems: &mut Problems) -> Objects {
    let mut objects = Objects::default();
    let needs = [
        (
            &args.internal,
            "--internal",
            "no internal interface is named",
            "name it with --internal IF",
        ),
        (
            &args.external,
            "--external",
            "no external interface is named",
            "name it with --external IF",
        ),
        (
            &args.pool,
            "--pool",
            "no public address is given",
            "give one with --pool 192.0.2.1, or objects with --config PATH",
        ),
        (&args.from, "--from", "no pods' prefix is given", "give one with --from 10.244.0.0/16"),
    ];
    for (values, flag, why, remedy) in needs {
        if values.is_empty() {
            problems.error(&Place::flag(flag), "missing flag", why, remedy);
            objects.incomplete = true; // what is missing is known now
        }
    }
    let pool = vec![("addresses", "--pool", texts("--pool", &args.pool))];
    objects.pools.extend((!args.pool.is_empty()).then(|| object("default", "--pool", pool)));
    if args.from.is_empty() {
        return objects;
    }
    let from = ("from", "--from", texts("--from", &args.from));
    if !args.exempt.is_empty() {
        let exempt = vec![
            from.clone(),
            ("to", "--exempt", texts("--exempt", &args.exempt)),
            ("exempt", "--exempt", Value::Bool(true)),
            ("priority", "--exempt", Value::Int(EXEMPT_PRIORITY)),
        ];
        objects.rules.push(object("exempt", "--exempt", exempt));
    }
    let pool = ("pool", "--pool", Value::Text("default".to_owned()));
    objects.rules.push(object("default", "--from", vec![from, pool]));
    objects
}

/// Refuses flags that `--config` makes meaningless.
pub(super) fn refuse_beside_config(args: &GatewayArgs, problems: &mut Problems) {
    let flags = [("--pool", &args.pool), ("--from", &args.from), ("--exempt", &args.exempt)];
    for (flag, values) in flags {
        if !values.is_empty() {
            let why = format!("{flag} can't be used together with --config");
            let remedy = "write it as an object, or leave out --config";
            problems.error(&Place::flag(flag), "contradictory flags", why, remedy);
        }
    }
}

fn node(flag: &'static str, value: Value) -> Node {
    Node { origin: Origin::Flag(flag), value }
}

fn texts(flag: &'static str, values: &[String]) -> Value {
    Value::List(values.iter().map(|text| node(flag, Value::Text(text.clone()))).collect())
}

fn object(
    name: &str,
    flag: &'static str,
    fields: Vec<(&'static str, &'static str, Value)>,
) -> Object {
    let entry = |(key, flag, value): (&str, _, _)| Entry {
        key: key.to_owned(),
        origin: Origin::Flag(flag),
        value: node(flag, value),
    };
    let spec = node(flag, Value::Map(fields.into_iter().map(entry).collect()));
    Object { name: Placed { value: name.to_owned(), place: Place::flag(flag) }, spec }
}
