//! What may a `Gateway` say?

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::counters::MAX_INTERFACES;
use dataplane::interface::InterfaceId;
use dataplane::load::LatencySample;
use dataplane::snapshot::{Answers, MssClamp, Refused, SlowPathBudget};
use tracing_subscriber::EnvFilter;

use super::Events;
use super::ask::{ANY, INTERFACE, LISTENING, PATH};
use super::events;
use super::field::{Field, Group, Schema};
use super::problem::{Place, Problems};

/// How packets are exchanged with the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The best that works, except generic.
    #[default]
    Auto,
    /// The driver's own buffers, or nothing.
    ZeroCopy,
    /// In the driver, with a copy.
    Copy,
    /// Behind the driver: slow, for drivers without XDP.
    Generic,
}

/// What becomes of pod traffic after a clean stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnExit {
    /// Stays blocked.
    #[default]
    Block,
    /// Goes to the kernel.
    Pass,
}

/// What becomes of VXLAN devices above internal interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tunnels {
    /// natgate serves them.
    #[default]
    Serve,
    /// The kernel keeps those that are not named.
    Ignore,
}

impl Tunnels {
    /// Its name in objects.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Ignore => "ignore",
        }
    }
}

/// What becomes of the receive settings that bring packets to the worker that needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReceiveSteering {
    /// Nobody asks for them.
    Off,
    /// The commands are shown.
    #[default]
    Print,
    /// natgate runs the commands, and takes back in the end what they changed.
    Apply,
}

impl ReceiveSteering {
    /// Its name in objects.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Print => "print",
            Self::Apply => "apply",
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Names of the values of [`Mode`].
const MODES: [(&str, Mode); 4] = [
    ("auto", Mode::Auto),
    ("zerocopy", Mode::ZeroCopy),
    ("copy", Mode::Copy),
    ("generic", Mode::Generic),
];
const ON_EXITS: [(&str, OnExit); 2] = [("block", OnExit::Block), ("pass", OnExit::Pass)];
const TUNNELS: [(&str, Tunnels); 2] = [("serve", Tunnels::Serve), ("ignore", Tunnels::Ignore)];
const RECEIVE_STEERINGS: [(&str, ReceiveSteering); 3] = [
    ("off", ReceiveSteering::Off),
    ("print", ReceiveSteering::Print),
    ("apply", ReceiveSteering::Apply),
];
const MSS_CLAMPS: [(&str, MssClamp); 2] = [("auto", MssClamp::Auto), ("off", MssClamp::Off)];
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Settings of the gateway as a whole, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// Interfaces on which pod traffic arrives; at least one. One that is in both lists: one-armed.
    pub(crate) internal: Vec<String>,
    /// Interfaces through which the outside is reached; at least one.
    pub(crate) external: Vec<String>,
    /// Workers, 1 to 64; `None`: as many as fit.
    pub(crate) workers: Option<u16>,
    /// Queues to use of every interface, 1 to 64; `None`: as many as it has.
    pub(crate) queues: Option<u16>,
    /// How packets are exchanged with the driver.
    pub(crate) mode: Mode,
    /// Poll the driver from the worker instead of by interrupts.
    pub(crate) busy_poll: bool,
    /// What becomes of VXLAN devices above internal interfaces.
    pub(crate) tunnels: Tunnels,
    /// What becomes of the receive settings of the interfaces.
    pub(crate) receive_steering: ReceiveSteering,
    /// The stats socket.
    pub(crate) socket: PathBuf,
    /// Where the block journal is.
    pub(crate) state_dir: PathBuf,
    /// Through which sessions survive a restart; `None`: they do not.
    pub(crate) state_file: Option<PathBuf>,
    /// Where to serve metrics over TCP.
    pub(crate) metrics: Option<SocketAddr>,
    /// What to log, in the syntax of `tracing`.
    pub(crate) log: String,
    /// How to log.
    pub(crate) log_format: LogFormat,
    /// What becomes of pod traffic after a clean stop.
    pub(crate) on_exit: OnExit,
    /// Most sessions, all workers together.
    pub(crate) sessions: u32,
    /// What natgate says by itself, but for the interfaces that it is silent on.
    pub(crate) answers: Answers,
    /// Interfaces that ICMP errors may leave by; `None`: all.
    pub(crate) error_interfaces: Option<Vec<String>>,
    /// What becomes of the segment sizes that the ends of TCP connections announce.
    pub(crate) mss_clamp: MssClamp,
    /// How long natgate waits for sessions to end when it is told to stop.
    pub(crate) drain_grace: Duration,
    /// What new flows get while there is overload.
    pub(crate) slow_path_budget: SlowPathBudget,
    /// Of how many turns packets' stay is timed.
    pub(crate) latency_sample: LatencySample,
    /// What is recorded, and where.
    pub(crate) events: Events,
}

impl Gateway {
    /// Names of all interfaces, internal ones first, in the order of their [`InterfaceId`]s.
    pub(crate) fn interface_names(&self) -> Vec<&String> {
        let external = self.external.iter().filter(|name| !self.internal.contains(name));
        self.internal.iter().chain(external).collect()
    }

    /// What natgate says by itself.
    pub(crate) fn answers(&self) -> Answers {
        let is_muted =
            |name: &String| self.error_interfaces.as_ref().is_some_and(|all| !all.contains(name));
        let names = self.interface_names();
        let muted = (0..names.len()).filter(|&id| is_muted(names[id]));
        Answers { muted: muted.map(|id| InterfaceId(id as u8)).collect(), ..self.answers.clone() }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            internal: Vec::new(),
            external: Vec::new(),
            workers: None,
            queues: None,
            mode: Mode::default(),
            busy_poll: false,
            tunnels: Tunnels::default(),
            receive_steering: ReceiveSteering::default(),
            socket: PathBuf::from(crate::cli::DEFAULT_SOCKET),
            state_dir: PathBuf::from(crate::cli::DEFAULT_STATE_DIR),
            state_file: Some(PathBuf::from(crate::cli::DEFAULT_SOCKET).with_extension("state")),
            metrics: None,
            log: "info".to_owned(),
            log_format: LogFormat::default(),
            on_exit: OnExit::default(),
            sessions: 1 << 20,
            answers: Answers::default(),
            error_interfaces: None,
            mss_clamp: MssClamp::default(),
            drain_grace: Duration::ZERO,
            slow_path_budget: SlowPathBudget::default(),
            latency_sample: LatencySample::default(),
            events: Events::default(),
        }
    }
}

const SPEC: Schema = Schema {
    of: "Gateway",
    known: &[
        "interfaces",
        "workers",
        "queues",
        "mode",
        "busyPoll",
        "tunnels",
        "receiveSteering",
        "socket",
        "stateDir",
        "stateFile",
        "metrics",
        "log",
        "logFormat",
        "onExit",
        "sessions",
        "answerPing",
        "onDeny",
        "onUnmapped",
        "icmpErrors",
        "grace",
        "mssClamp",
        "slowPathBudget",
        "latencySample",
        "drain",
        "events",
    ],
    later: &["defaults", "trafficClass"],
};
const ICMP_ERRORS: Schema =
    Schema { of: "icmpErrors", known: &["rate", "perSubscriber", "interfaces"], later: &[] };
const DRAIN: Schema = Schema { of: "drain", known: &["grace"], later: &[] };
/// Names of the values of [`Refused`].
const REFUSALS: [(&str, Refused); 3] =
    [("icmp", Refused::Icmp), ("reset", Refused::Reset), ("silent", Refused::Silent)];
const INTERFACES: Schema =
    Schema { of: "interfaces", known: &["internal", "external"], later: &[] };

/// Reads the `spec` of a `Gateway`; if it is `complete`, it must name the interfaces.
pub(super) fn read(spec: &Field<'_>, complete: bool, problems: &mut Problems) -> Gateway {
    let mut gateway = Gateway::default();
    let Some(group) = spec.group(&SPEC, problems) else { return gateway };
    read_interfaces(&group, complete, &mut gateway, problems);
    read_packet_path(&group, &mut gateway, problems);
    read_answers(&group, &mut gateway, problems);
    read_service(&group, &mut gateway, problems);
    gateway.events = events::read(&group, problems);
    gateway
}

fn read_interfaces(
    group: &Group<'_>,
    complete: bool,
    gateway: &mut Gateway,
    problems: &mut Problems,
) {
    let remedy = "name them with --internal IF and --external IF, or in spec.interfaces";
    let field = if complete {
        group.required("interfaces", remedy, problems)
    } else {
        group.get("interfaces")
    };
    let Some(field) = field else { return };
    let Some(interfaces) = field.group(&INTERFACES, problems) else { return };
    let sides = [
        ("internal", &mut gateway.internal, "name one with --internal IF, or in spec.interfaces"),
        ("external", &mut gateway.external, "name one with --external IF, or in spec.interfaces"),
    ];
    for (side, names, remedy) in sides {
        let field = if complete {
            interfaces.required(side, remedy, problems)
        } else {
            interfaces.get(side)
        };
        *names = field.map_or_else(Vec::new, |field| interface_names(field, problems));
    }
    refuse_too_many(gateway, &interfaces.place, problems);
}

/// The data plane numbers interfaces; one that is in both lists counts once.
fn refuse_too_many(gateway: &Gateway, place: &Place, problems: &mut Problems) {
    let names: BTreeSet<&String> = gateway.internal.iter().chain(&gateway.external).collect();
    if names.len() > MAX_INTERFACES {
        let why = format!("{} interfaces are named, {MAX_INTERFACES} are possible", names.len());
        problems.error(place, "too many interfaces", why, "serve fewer interfaces");
    }
}

fn interface_names(field: &Field<'_>, problems: &mut Problems) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for item in field.list(problems) {
        let Some(name) = item.text(&INTERFACE, problems) else { continue };
        let is_name = (1..=15).contains(&name.len())
            && !name
                .contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
            && name != "."
            && name != "..";
        if !is_name {
            let why = format!("{name:?} can't be the name of an interface");
            let remedy =
                "write 1 to 15 characters without blank, colon or slash, as `ip link` shows them";
            problems.error(&item.place(), "bad interface name", why, remedy);
        } else if names.iter().any(|other| other == name) {
            let why = format!("{name:?} is named twice");
            problems.error(&item.place(), "duplicate interface", why, "name it once");
        } else {
            names.push(name.to_owned());
        }
    }
    names
}

fn read_packet_path(group: &Group<'_>, gateway: &mut Gateway, problems: &mut Problems) {
    if let Some(field) = group.get("workers") {
        gateway.workers = field.number(1..=64, problems);
    }
    if let Some(field) = group.get("queues") {
        gateway.queues = field.number(1..=64, problems);
    }
    if let Some(mode) = group.get("mode").and_then(|f| f.choice(&MODES, problems)) {
        gateway.mode = mode;
    }
    if let Some(busy_poll) = group.get("busyPoll").and_then(|f| f.truth(problems)) {
        gateway.busy_poll = busy_poll;
    }
    if let Some(tunnels) = group.get("tunnels").and_then(|f| f.choice(&TUNNELS, problems)) {
        gateway.tunnels = tunnels;
    }
    if let Some(steering) =
        group.get("receiveSteering").and_then(|f| f.choice(&RECEIVE_STEERINGS, problems))
    {
        gateway.receive_steering = steering;
    }
    if let Some(on_exit) = group.get("onExit").and_then(|f| f.choice(&ON_EXITS, problems)) {
        gateway.on_exit = on_exit;
    }
    if let Some(clamp) = group.get("mssClamp").and_then(|f| mss_clamp(f, problems)) {
        gateway.mss_clamp = clamp;
    }
    if let Some(budget) = group.get("slowPathBudget").and_then(|f| f.number(1..=64, problems)) {
        gateway.slow_path_budget = SlowPathBudget(budget);
    }
    if let Some(turns) = group.get("latencySample").and_then(|f| f.number(0..=1_000_000, problems))
    {
        gateway.latency_sample = LatencySample(turns);
    }
    if let Some(sessions) = group.get("sessions").and_then(|f| f.number(64..=100_000_000, problems))
    {
        gateway.sessions = sessions;
    }
}

/// A word, or bytes: from the least that Linux takes to what the longest packet carries.
fn mss_clamp(field: &Field<'_>, problems: &mut Problems) -> Option<MssClamp> {
    if field.is_text() {
        return field.choice(&MSS_CLAMPS, problems);
    }
    field.number(88..=65_495, problems).map(MssClamp::Bytes)
}

/// What natgate says by itself.
fn read_answers(group: &Group<'_>, gateway: &mut Gateway, problems: &mut Problems) {
    let answers = &mut gateway.answers;
    if let Some(ping) = group.get("answerPing").and_then(|f| f.truth(problems)) {
        answers.ping = ping;
    }
    for (name, target) in [("onDeny", &mut answers.denied), ("onUnmapped", &mut answers.unmapped)] {
        if let Some(refused) = group.get(name).and_then(|f| f.choice(&REFUSALS, problems)) {
            *target = refused;
        }
    }
    if let Some(seconds) = group.get("grace").and_then(|f| f.number(0..=86_400_u32, problems)) {
        answers.grace = Duration::from_secs(seconds.into());
    }
    let Some(errors) = group.get("icmpErrors").and_then(|f| f.group(&ICMP_ERRORS, problems)) else {
        return;
    };
    let rates = [
        ("rate", &mut answers.errors_per_second),
        ("perSubscriber", &mut answers.errors_per_subscriber),
    ];
    for (name, target) in rates {
        if let Some(rate) = errors.get(name).and_then(|f| f.number(0..=1_000_000, problems)) {
            *target = rate;
        }
    }
    let Some(field) = errors.get("interfaces") else { return };
    let names = interface_names(field, problems);
    for name in names
        .iter()
        .filter(|name| !gateway.internal.contains(name) && !gateway.external.contains(name))
    {
        let why = format!("{name:?} is not an interface of the gateway");
        let remedy = "name interfaces of spec.interfaces, or leave the field out for all";
        problems.error(&field.place(), "unknown interface", why, remedy);
    }
    gateway.error_interfaces = Some(names);
}

fn read_service(group: &Group<'_>, gateway: &mut Gateway, problems: &mut Problems) {
    if let Some(drain) = group.get("drain").and_then(|f| f.group(&DRAIN, problems))
        && let Some(seconds) = drain.get("grace").and_then(|f| f.number(0..=86_400_u32, problems))
    {
        gateway.drain_grace = Duration::from_secs(seconds.into());
    }
    if let Some(path) = group.get("socket").and_then(|f| socket(f, problems)) {
        gateway.socket = path;
    }
    if let Some(path) = group.get("stateDir").and_then(|f| state_dir(f, problems)) {
        gateway.state_dir = path;
    }
    // Beside the socket: each gateway of a host has its own.
    gateway.state_file = Some(gateway.socket.with_extension("state"));
    if let Some(field) = group.get("stateFile") {
        gateway.state_file = state_file(field, problems);
    }
    if let Some(field) = group.get("metrics") {
        gateway.metrics = metrics(field, problems);
    }
    if let Some(log) = group.get("log").and_then(|f| log_filter(f, problems)) {
        gateway.log = log;
    }
    if let Some(format) = group.get("logFormat").and_then(|f| f.choice(&LOG_FORMATS, problems)) {
        gateway.log_format = format;
    }
}

/// Longest path of a Unix socket, in bytes (`sun_path` less its final zero).
const MAX_SOCKET_PATH: usize = 107;

fn socket(field: &Field<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let text = field.text(&PATH, problems)?;
    let why = if !text.starts_with('/') {
        format!("{text:?} is not an absolute path")
    } else if text.len() > MAX_SOCKET_PATH {
        format!("the path has {} bytes, a socket's may have {MAX_SOCKET_PATH}", text.len())
    } else {
        return Some(PathBuf::from(text));
    };
    problems.error(
        &field.place(),
        "bad socket path",
        why,
        "write a path such as /run/natgate.sock",
    );
    None
}

fn state_dir(field: &Field<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let text = field.text(&PATH, problems)?;
    if text.starts_with('/') {
        return Some(PathBuf::from(text));
    }
    let why = format!("{text:?} is not an absolute path");
    let remedy = "write a path such as /var/lib/natgate";
    problems.error(&field.place(), "bad state directory", why, remedy);
    None
}

/// A path, or `none`.
fn state_file(field: &Field<'_>, problems: &mut Problems) -> Option<PathBuf> {
    if field.is_word("none", problems) {
        return None;
    }
    let text = field.text(&PATH, problems)?;
    if text.starts_with('/') && !text.ends_with('/') {
        return Some(PathBuf::from(text));
    }
    let why = format!("{text:?} is not an absolute path of a file");
    let remedy = "write a path on a tmpfs such as /run/natgate.state, or none";
    problems.error(&field.place(), "bad state file", why, remedy);
    None
}

fn metrics(field: &Field<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    let text = field.text(&LISTENING, problems)?;
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    if address.is_none() {
        let why = format!("{text:?} is not an address and a port");
        problems.error(
            &field.place(),
            "bad listening address",
            why,
            "write for example 127.0.0.1:9464",
        );
    }
    address
}

fn log_filter(field: &Field<'_>, problems: &mut Problems) -> Option<String> {
    let text = field.text(&ANY, problems)?;
    // A lone word that is no level would be a target that nothing has, and silence everything.
    let unknown = |part: &str| {
        let lone = !part.contains(['=', '[', ':']);
        lone && part.parse::<tracing::level_filters::LevelFilter>().is_err()
    };
    let lone = text.split(',').map(str::trim).find(|part| unknown(part));
    if lone.is_some() || EnvFilter::builder().parse(text).is_err() {
        let why = lone.map_or_else(
            || format!("{text:?} is not a log filter"),
            |word| format!("{word:?} is not a level"),
        );
        let remedy =
            "write a level (error, warn, info, debug, trace) or target=level, separated by commas";
        problems.error(&field.place(), "bad log filter", why, remedy);
        return None;
    }
    Some(text.to_owned())
}
