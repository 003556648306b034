//! The stats socket over real sockets, with counters filled by hand and workers that are threads.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use conntrack::{Endpoint, Pool, PoolId, PoolSettings, Protocol, Timestamp};
use crossbeam::channel::{Sender, TrySendError, bounded, unbounded};
use dataplane::DropReason;
use dataplane::counters::AllCounters;
use dataplane::forward::Forwards;
use dataplane::interface::{Interface, Mac, Roles};
use dataplane::request::{HoldingRow, Request, SessionFilter, SessionRow, SubscriberRow};
use dataplane::rule::{Action, Rule, RuleSet};
use dataplane::snapshot::{Answers, Policy, Published, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::listen::ServeError;
use super::*;

/// A natgate without packets: two workers that are threads with `rows` sessions each.
pub(crate) struct Fake {
    pub(crate) socket: PathBuf,
    pub(crate) shared: Arc<Shared>,
    /// Rows that workers have handed out.
    pub(crate) produced: Arc<AtomicUsize>,
    _directory: Directory,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Fake {
    pub(crate) fn new(rows: usize) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("nga-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let produced = Arc::new(AtomicUsize::new(0));
        let shared = Arc::new(shared(rows, &produced));
        let socket = directory.join("natgate.sock");
        Self { socket, shared, produced, _directory: Directory(directory) }
    }

    /// Runs `test` while the socket is served.
    pub(crate) fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(&self.socket, None).await.unwrap();
            tokio::select! {
                () = server.serve(Arc::clone(&self.shared)) => unreachable!("serves for ever"),
                () = test() => {}
            }
        });
        runtime.shutdown_background();
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.0\r\nhost: n\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The status of an answer, whatever follows.
    pub(crate) async fn status(&self, method: &str, path: &str) -> u16 {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let request = format!("{} {path} HTTP/1.0\r\nhost: n\r\n\r\n", method.to_uppercase());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        String::from_utf8_lossy(&head)[9..].parse().unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn interface() -> Interface {
    Interface {
        name: "eth0".into(),
        ifindex: 2,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        address: None,
        mtu: 1500,
        roles: Roles { internal: true, external: true },
        repair_checksums: false,
        overlay: 0,
        underlay: false,
        tunnel: None,
    }
}

fn counted() -> AllCounters {
    let counters: AllCounters = (0..2).map(|_| crossbeam::utils::CachePadded::default()).collect();
    counters[0].drops[DropReason::TcpNotSyn.index()].add(5);
    counters[1].drops[DropReason::TcpNotSyn.index()].add(7);
    counters[1].drops[DropReason::NoRule.index()].add(20_000);
    counters[0].interfaces[0].received_packets.add(1000);
    counters[0].interfaces[0].received_bytes.add(64_000);
    counters[1].sessions.set(3);
    counters[1].busy_loops.add(1);
    counters[1].idle_loops.add(3);
    counters
}

fn facts() -> InterfaceFacts {
    InterfaceFacts {
        driver: "veth".into(),
        mode: "copy".into(),
        attach: None,
        queues: 2,
        longest: None,
        warnings: vec!["slow".into()],
        receive_steering: Vec::new(),
    }
}

fn shared(rows: usize, produced: &Arc<AtomicUsize>) -> Shared {
    let counters = counted();
    let address = Ipv4Addr::new(203, 0, 113, 7);
    let pool = Arc::new(Pool::new(PoolId(0), "main", PoolSettings::default(), [address]));
    let holder =
        conntrack::Holder { subscriber: Ipv4Addr::new(10, 0, 0, 1), worker: 1, overlay: 0 };
    pool.addresses[0].directory.claim(holder, 0, Timestamp::default()).unwrap();
    let rule = Rule {
        name: "out".into(),
        priority: 1,
        from: vec!["10.0.0.0/8".parse().unwrap()],
        to: vec!["0.0.0.0/0".parse().unwrap()],
        except: vec![],
        services: vec![],
        action: Action::Pool(PoolId(0)),
    };
    let snapshot = Snapshot {
        interfaces: vec![interface()],
        policy: Arc::new(Policy::new(
            3,
            vec![pool],
            RuleSet::new(vec![rule]),
            Forwards::default(),
            Answers::default(),
        )),
        roads: Arc::default(),
    };
    let journal = Arc::new(crate::events::Journal::new(Timestamp::default()));
    Shared {
        counters: Arc::new(counters),
        workers: (0..2).map(|number| worker(number, rows, Arc::clone(produced))).collect(),
        snapshot: Arc::new(Published::new(snapshot)),
        interfaces: vec![facts()],
        started: Instant::now(),
        config: "flags".into(),
        warnings: Vec::new().into(),
        host_warnings: Vec::new(),
        restored: None,
        orders: orders().0,
        who: Arc::new(crate::events::Who::new(Arc::clone(&journal), None)),
        journal,
        sinks: vec![("file", Arc::default())],
        reloads: std::sync::Mutex::default(),
        settings: std::sync::Mutex::default(),
        sessions_maximum: 1_000_000,
        now: Box::new(Timestamp::default),
        steering_drops: Box::new(|| vec![("pod-no-worker".into(), 4)]),
        loads: Loads::default(),
        explain: crate::explain::Facts::new(Box::new(|_, _, _| true)),
        ready: AtomicBool::new(false),
        drained_since: AtomicU64::new(0),
        stops_at: std::sync::OnceLock::new(),
        mirror_resyncs: AtomicU64::new(0),
        mirror_lag_nanos: AtomicU64::new(0),
        kernel: std::sync::Mutex::default(),
        ending: tokio::sync::watch::Sender::new(false),
    }
}

fn worker(number: u16, rows: usize, produced: Arc<AtomicUsize>) -> WorkerFacts {
    let (requests, questions) = unbounded();
    let (wake, woken) = unbounded::<()>();
    std::thread::spawn(move || {
        for request in questions {
            match request {
                Request::Sessions(filter, to) => {
                    let all =
                        (0..rows).map(|i| session(number, i)).filter(|row| fits(&filter, row));
                    answer(&all.collect::<Vec<_>>(), &to, &woken, &produced);
                }
                Request::Subscribers(_, to) => {
                    let pool = PoolId(0);
                    let blocks = vec![(Ipv4Addr::new(203, 0, 113, 7), 2)];
                    let row = |low: usize| SubscriberRow {
                        worker: number,
                        // A few are those of the sessions.
                        address: match rows {
                            0..1_000 => Ipv4Addr::new(10, 0, number as u8, 1),
                            _ => Ipv4Addr::new(10, (low >> 8) as u8, low as u8, number as u8),
                        },
                        overlay: 0,
                        sessions: 9,
                        created: 10,
                        refused: 1,
                        holdings: vec![HoldingRow { pool, blocks: blocks.clone() }],
                    };
                    // A few sessions are one subscriber's; of many, each has one.
                    let subscribers = if rows < 1_000 { rows.min(1) } else { rows };
                    let all: Vec<_> = (0..subscribers).map(row).collect();
                    answer(&all, &to, &woken, &produced);
                }
                Request::Announce | Request::Stop => return,
                Request::Explain(..) | Request::Capture(_) => {}
            }
        }
    });
    let wake = Box::new(move || {
        let _ = wake.send(());
    });
    WorkerFacts {
        core: Some(usize::from(number)),
        queues: vec![format!("eth0:{number}")],
        requests,
        wake,
    }
}

/// As a worker does it: never blocks on the channel, goes on when it is woken, ends with the receiver.
fn answer<T: Clone>(
    rows: &[T],
    to: &Sender<Vec<T>>,
    woken: &crossbeam::channel::Receiver<()>,
    produced: &AtomicUsize,
) {
    for slice in rows.chunks(256) {
        let mut slice = slice.to_vec();
        let count = slice.len();
        loop {
            match to.try_send(slice) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => slice = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            let _ = woken.recv_timeout(std::time::Duration::from_millis(1));
        }
        produced.fetch_add(count, Ordering::Relaxed);
    }
}

fn session(worker: u16, number: usize) -> SessionRow {
    let protocol = Protocol::ALL[number % 3];
    SessionRow {
        worker,
        protocol,
        internal: Endpoint::new(Ipv4Addr::new(10, 0, worker as u8, 1), number as u16),
        overlay: 2 * u16::from(number == 1),
        public: Endpoint::new(Ipv4Addr::new(203, 0, 113, 7), 1024 + number as u16 % 60_000),
        remote: Endpoint::new(Ipv4Addr::new(198, 51, 100, 1), 443),
        state: if number == 0 { "syn-sent" } else { "established" },
        pool: PoolId(0),
        rule: 0,
        idle_ms: 1200,
        age_s: 90,
        expires_in_ms: 60_000,
        packets_out: 10,
        bytes_out: 1000,
        packets_in: 20,
        bytes_in: 3_000_000,
    }
}

fn fits(filter: &SessionFilter, row: &SessionRow) -> bool {
    filter.protocol.is_none_or(|protocol| protocol == row.protocol)
        && filter.state.as_ref().is_none_or(|state| state == row.state)
        && filter.address.is_none_or(|address| address == row.internal.addr)
}

#[test]
fn every_address_answers() {
    let fake = Fake::new(3);
    fake.run(async || {
        let status = fake.json("/v1/status").await;
        assert_eq!(status["sessions"], 3);
        assert_eq!(status["config_generation"], 3);
        assert_eq!(status["dropped"], 20_012);
        assert_eq!(status["dropped_by_steering"], 4);
        let pools = fake.json("/v1/pools").await;
        assert_eq!((&pools[0]["pool"], &pools[0]["blocks_held"]), (&"main".into(), &1.into()));
        let drops = fake.json("/v1/drops").await;
        let drops = drops.as_array().unwrap();
        assert_eq!(drops.len(), DropReason::COUNT + 1);
        let not_syn = drops.iter().find(|row| row["reason"] == "tcp-not-syn").unwrap();
        assert_eq!((&not_syn["packets"], &not_syn["where"]), (&12.into(), &"worker".into()));
        assert_eq!(drops[DropReason::COUNT]["where"], "steering");
        let workers = fake.json("/v1/workers").await;
        assert_eq!(workers[1]["busy_ratio"], 0.25);
        let interfaces = fake.json("/v1/interfaces").await;
        assert_eq!(interfaces[0]["roles"], serde_json::json!(["internal", "external"]));
        assert_eq!(interfaces[0]["received_bytes"], 64_000);
        let (_, subscribers) = fake.get("/v1/subscribers").await;
        assert_eq!(subscribers.lines().count(), 2);
        assert!(subscribers.contains(r#""blocks":2,"holdings":[{"pool":"main""#), "{subscribers}");
        for path in ["/", "/healthz"] {
            assert_eq!(fake.get(path).await.0, 200);
        }
        assert_eq!(fake.get("/readyz").await.0, 503);
        fake.shared.ready.store(true, Ordering::Release);
        assert_eq!(fake.get("/readyz").await.0, 200);
    });
}

#[test]
fn filters_and_refusals() {
    let fake = Fake::new(9);
    fake.run(async || {
        let count = async |query: &str| {
            let (status, body) = fake.get(&format!("/v1/sessions{query}")).await;
            assert_eq!(status, 200, "{body}");
            body.lines().count()
        };
        assert_eq!(count("").await, 18);
        assert_eq!(count("?protocol=tcp").await, 6);
        assert_eq!(count("?address=10.0.1.1&pool=main").await, 9);
        assert_eq!(count("?state=syn-sent").await, 2);
        assert_eq!(count("?limit=5").await, 5);
        assert_eq!(count("?limit=0").await, 0);
        for (path, status, error) in [
            (
                "/v1/sessions?protocol=sctp",
                400,
                "bad value \"sctp\" (protocol): it is no protocol of sessions; give tcp, udp or icmp",
            ),
            (
                "/v1/sessions?address=x",
                400,
                "bad value \"x\" (address): it is no IPv4 address; give one",
            ),
            (
                "/v1/sessions?pool=none",
                400,
                "bad value \"none\" (pool): there is no such pool; give one of: main",
            ),
            (
                "/v1/sessions?state=opening",
                400,
                "bad value \"opening\" (state): there is no such state; give one of: open, syn-sent, syn-external, \
                 syn-received, established, fin-internal, fin-external, closing, time-wait, \
                 reset",
            ),
            (
                "/v1/sessions?limit=-1",
                400,
                "bad value \"-1\" (limit): it is no whole number; give one such as 100",
            ),
            (
                "/v1/nothing",
                404,
                "unknown path (/v1/nothing): natgate serves nothing there; GET / lists what there is",
            ),
        ] {
            let (got, body) = fake.get(path).await;
            let body: model::Problem = serde_json::from_str(&body).unwrap();
            assert_eq!((got, body.error.as_str()), (status, error));
        }
        let (status, body) = fake.get("/v1/subscribers?protocol=tcp").await;
        assert!(status == 400 && body.contains("unknown field `protocol`"), "{body}");
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nothing() {
    let fake = Fake::new(100_000);
    fake.run(async || {
        let mut silent = UnixStream::connect(&fake.socket).await.unwrap();
        silent.write_all(b"GET /v1/sessions HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
        let mut first = [0; 1];
        silent.read_exact(&mut first).await.unwrap();
        // Others are served meanwhile, and what waits for the silent one stays small.
        for _ in 0..50 {
            fake.json("/v1/status").await;
        }
        let waiting = fake.produced.load(Ordering::Relaxed);
        assert!(waiting < 20_000, "{waiting} rows are buffered");
        drop(silent);
        // The worker learns that the client is gone, and serves the next one.
        let (_, body) = fake.get("/v1/sessions").await;
        assert_eq!(body.lines().count(), 200_000);
        let last: model::SessionRow = serde_json::from_str(body.lines().last().unwrap()).unwrap();
        assert_eq!((last.rule.as_str(), last.worker), ("out", 1));
    });
}

#[test]
fn a_worker_that_is_gone_ends_the_list_with_an_error() {
    let fake = Fake::new(1);
    let (requests, gone) = bounded(1);
    drop(gone);
    fake.shared.workers[1].requests.send(Request::Stop).unwrap();
    let mut other = Fake::new(1);
    Arc::get_mut(&mut other.shared).unwrap().workers[1].requests = requests;
    other.run(async || {
        let (_, body) = other.get("/v1/sessions").await;
        let lines: Vec<&str> = body.lines().collect();
        assert_eq!(
            lines[1],
            r#"{"error":"cannot ask (worker 1): it takes no questions now; try again"}"#
        );
    });
}

/// The cells of the row for `name` in the part of a document under `heading`.
fn documented(document: &'static str, heading: &str, name: &str) -> Vec<&'static str> {
    let (_, part) = document.split_once(&format!("\n{heading}\n")).unwrap();
    let part = part.split_once("\n## ").map_or(part, |(part, _)| part);
    let rows = part.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let row = rows.find(|row| row[0] == format!("`{name}`"));
    row.unwrap_or_else(|| panic!("{heading}: {name} is not documented"))
}

#[test]
fn the_documents_name_all_that_is_shown() {
    let fake = Fake::new(1);
    let operations = include_str!("../../docs/operations.md");
    let reference = include_str!("../../docs/reference.md");
    for drop in fake.shared.drops() {
        let row = documented(reference, "## Drop reasons", &drop.reason);
        assert_eq!(row.last().copied(), Some(drop.remedy.as_str()), "{}", drop.reason);
    }
    let (_, served) = operations.split_once("The socket speaks HTTP/1.1: ").unwrap();
    let (served, _) = served.split_once("over TCP").unwrap();
    for path in super::routes::paths() {
        assert!(served.contains(&format!("`{path}`")), "{path} is not in docs/operations.md");
        assert!(path == "/" || super::routes::INDEX.contains(&format!("\n{path} ")), "{path}");
    }
    for kind in conntrack::EventKind::NAMES {
        assert_eq!(documented(operations, "### Events", kind).len(), 2, "{kind}");
    }
    fake.run(async || {
        let (_, text) = fake.get("/metrics").await;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE natgate_"));
        let mut count = 0;
        for (name, kind) in types.map(|line| line.split_once(' ').unwrap()) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let name = format!("natgate_{name}{suffix}");
            assert_eq!(documented(reference, "## Metrics", &name).len(), 3, "{name}");
            count += 1;
        }
        assert!(count > 40, "{count} metrics");
    });
}

#[test]
fn metrics_are_well_formed() {
    let fake = Fake::new(1);
    fake.run(async || {
        let (status, text) = fake.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(text.ends_with("# EOF\n"));
        assert!(
            text.contains(r#"natgate_latency_seconds_bucket{le="+Inf",worker="1"} 0"#),
            "{text}"
        );
        let mut types = std::collections::HashMap::new();
        let mut helped = std::collections::HashSet::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, ..] => assert!(helped.insert(name), "twice: {name}"),
                ["#", "TYPE", name, kind] => assert!(types.insert(name, kind).is_none()),
                [sample, value] => {
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                    let name = sample.split('{').next().unwrap();
                    assert!(name.starts_with("natgate_"), "{line}");
                    let suffixes = [
                        ("_total", "counter"),
                        ("_sum", "histogram"),
                        ("_count", "histogram"),
                        ("_bucket", "histogram"),
                    ];
                    let of = |(suffix, kind)| Some((name.strip_suffix(suffix)?, kind));
                    let (family, kind) =
                        suffixes.into_iter().find_map(of).unwrap_or((name, "gauge"));
                    assert!(helped.contains(family) && types[family] == kind, "{line}");
                }
                _ => panic!("not a metric: {line}"),
            }
        }
        for reason in DropReason::ALL {
            let sample =
                format!(r#"natgate_dropped_packets_total{{reason="{reason}",where="worker"}}"#);
            assert!(text.contains(&sample), "{sample}");
        }
        let bytes = r#"natgate_bytes_total{interface="eth0",direction="received"} 64000"#;
        assert!(text.contains(bytes), "{text}");
        assert!(text.contains("natgate_ready 0\n"), "{text}");
    });
}

#[test]
fn metrics_over_tcp_show_nothing_else() {
    let fake = Fake::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&fake.socket, Some(any)).await.unwrap();
        let address = server.metrics_address().unwrap();
        let get = async |path: &str| {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split(' ').nth(1).unwrap().to_owned()
        };
        let test = async {
            for (path, status) in [
                ("/metrics", "200"),
                ("/healthz", "200"),
                ("/readyz", "503"),
                ("/v1/status", "404"),
            ] {
                assert_eq!(get(path).await, status, "{path}");
            }
        };
        tokio::select! {
            () = server.serve(Arc::clone(&fake.shared)) => unreachable!(),
            () = test => {}
        }
    });
}

#[test]
fn the_socket_is_taken_over_from_the_dead_only() {
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::new(0);
    let path = &fake.socket;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        assert!(path.exists(), "a dead process left it");
        let server = Server::bind(path, None).await.unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o660);
        let second = Server::bind(path, None).await.unwrap_err();
        assert!(matches!(second, ServeError::InUse(_)), "{second}");
        drop(server);
        assert!(!path.exists());
        std::fs::write(path, "precious").unwrap();
        assert!(matches!(Server::bind(path, None).await.unwrap_err(), ServeError::NotASocket(_)));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
    });
}

/// What the journal of a natgate gets that ends in order.
pub(crate) fn stop_journal(fake: &Fake) {
    let (rings, _) = crate::events::Rings::new(1);
    let snapshot = Arc::clone(&fake.shared.snapshot);
    let clock = dataplane::worker::Clock::start();
    let journal = Arc::clone(&fake.shared.journal);
    let restored = crate::events::held_blocks(&snapshot.get().policy);
    let before = crate::events::Before { restored, crash: None };
    let started = crate::events::Collector::start(journal, rings, snapshot, clock, false, before);
    started.unwrap().stop();
}
