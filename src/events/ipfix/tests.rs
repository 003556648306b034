//! Records as independent decoders read them: Wireshark's (`tshark`), over TLS from `openssl s_server`, and `nfcapd`.
//!
//! Each test is in a network namespace of its own.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use conntrack::PoolId;
use dataplane::forward::{Forwards, PortForward, StaticNat};

use super::super::sink_tests::Scratch;
use super::super::tests::{Rig, Table, held, policy};
use super::{Collector, Transport};
use crate::events::{Happening, Running};

/// Runs `test` on a thread in a network namespace of its own, in a directory of its own.
fn in_namespace(test: impl FnOnce(&Path) + Send + 'static) {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        let scratch = Scratch::new();
        test(&scratch.0);
    };
    std::thread::spawn(body).join().unwrap();
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stderr(Stdio::piped()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not seen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn collector(port: u16, transport: Transport) -> Collector {
    Collector {
        address: format!("127.0.0.1:{port}"),
        transport,
        ca: PathBuf::from("/nonexistent"),
        server_name: None,
        certificate: None,
        domain: 7,
    }
}

fn written(running: &Running) -> u64 {
    running.counts.written.load(Ordering::Relaxed) + running.counts.lost.load(Ordering::Relaxed)
}

/// The messages of a stream, as packets that `tshark` reads.
fn capture(stream: &[u8], path: &Path) -> usize {
    let mut pcap = Vec::new();
    pcap.extend(0xa1b2_c3d4_u32.to_be_bytes());
    pcap.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]);
    pcap.extend(101_u32.to_be_bytes()); // raw IP
    let (mut rest, mut count) = (stream, 0);
    while !rest.is_empty() {
        assert_eq!(rest[..2], [0, 10], "message {count}");
        let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (message, after) = rest.split_at(len);
        rest = after;
        let packet = len + 28;
        pcap.extend([0; 8]);
        pcap.extend((packet as u32).to_be_bytes());
        pcap.extend((packet as u32).to_be_bytes());
        pcap.extend([0x45, 0]);
        pcap.extend((packet as u16).to_be_bytes());
        pcap.extend([0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
        pcap.extend([0x12, 0x83, 0x12, 0x83]);
        pcap.extend(((len + 8) as u16).to_be_bytes());
        pcap.extend([0, 0]);
        pcap.extend(message);
        count += 1;
    }
    std::fs::write(path, pcap).unwrap();
    count
}

/// What `tshark` finds in a flow.
#[derive(Debug, Default)]
struct Flow {
    event: Option<u8>,
    subscriber: String,
    public: String,
    first: u16,
    last: u16,
    not_sent: Option<u64>,
    vrf: u32,
}

fn flows(pcap: &Path) -> Vec<Flow> {
    let text = run("tshark", &["-r", pcap.to_str().unwrap(), "-d", "udp.port==4739,cflow", "-V"]);
    assert!(!text.contains("Malformed"), "{text}");
    let mut flows: Vec<Flow> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("Flow ") || line.starts_with("DataRecord ") {
            flows.push(Flow::default());
        }
        let (Some(flow), Some((name, value))) = (flows.last_mut(), line.split_once(": ")) else {
            continue;
        };
        let number = |text: &str| {
            let inner = text.rsplit_once('(').map_or(text, |(_, it)| it.trim_end_matches(')'));
            inner.trim().parse::<u64>().unwrap_or_else(|_| panic!("{line}"))
        };
        match name {
            "SrcAddr" => flow.subscriber = value.to_owned(),
            "Post NAT Source IPv4 Address" => flow.public = value.to_owned(),
            "Nat Event" => flow.event = Some(number(value) as u8),
            "Port Range Start" => flow.first = number(value) as u16,
            "Port Range End" => flow.last = number(value) as u16,
            "Not Sent Flows" => flow.not_sent = Some(number(value)),
            "Ingress VRFID" => flow.vrf = number(value) as u32,
            _ => {}
        }
    }
    flows
}

/// A replay for a reader that may be told the same twice.
fn replay(flows: &[Flow]) -> Table {
    let mut table = Table::new();
    for flow in flows {
        let place = (flow.public.clone(), flow.first, flow.last, String::new());
        let whose = flow.subscriber.clone();
        match flow.event {
            Some(16) => {
                table.insert(place, (whose, 0));
            }
            Some(17) if table.get(&place).is_some_and(|it| it.0 == whose) => {
                table.remove(&place);
            }
            _ => {}
        }
    }
    table
}

/// What is held, without the overlays: records have the VNI, and the rig has no devices.
fn plain(rig: &Rig) -> Table {
    held(&rig.pool).into_iter().map(|(place, (who, _))| (place, (who, 0))).collect()
}

fn go_on(rig: &mut Rig, steps: usize) {
    for _ in 0..steps {
        let now = rig.step();
        rig.collect(now);
    }
}

/// An authority's, one of the collector by it, and another authority's of the same name.
fn make_certificates(directory: &Path) {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (key, certificate, other) = (path("key.pem"), path("cert.pem"), path("other.pem"));
    let (ca, names) = (path("ca.pem"), path("names"));
    let openssl = |words: &str, files: &[&str]| {
        let words: Vec<&str> = words.split(' ').chain(files.iter().copied()).collect();
        run("openssl", &words);
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for (key, certificate) in [("ca.key", &ca), ("other.key", &other)] {
        let words = format!("req -x509 {new} -days 2 -subj /CN=authority");
        openssl(&words, &["-keyout", &path(key), "-out", certificate]);
    }
    std::fs::write(&names, "subjectAltName=DNS:collector").unwrap();
    let request = path("request");
    let words = format!("req {new} -subj /CN=collector");
    openssl(&words, &["-keyout", &key, "-out", &request]);
    let files = ["-in", &request, "-CA", &ca, "-CAkey", &path("ca.key"), "-out", &certificate];
    let words = format!("x509 -req -days 2 -CAcreateserial -extfile {names}");
    openssl(&words, &files);
}

/// What a configuration gives to pods of networks with numbers.
fn given_to_networks() -> Forwards {
    let (address, target) = (Ipv4Addr::new(203, 0, 113, 77), Ipv4Addr::new(10, 9, 9, 9));
    let pool = PoolId(0);
    let forward = PortForward {
        name: "web".into(),
        address,
        protocol: conntrack::Protocol::Tcp,
        ports: 8_000..=8_009,
        target,
        target_port: 80,
        vni: Some(4_242),
        pool,
    };
    let address = Ipv4Addr::new(203, 0, 113, 78);
    let one = StaticNat { name: "one".into(), address, target, vni: Some(99), pool };
    Forwards::new(vec![forward], &[one])
}

// Proves: 8158-S7a, 8158-S1, 8158-S4.6.10
#[test]
fn over_tls_wireshark_reads_the_block_table() {
    in_namespace(|directory| {
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        make_certificates(directory);
        let [key, certificate, ca, other] =
            ["key.pem", "cert.pem", "ca.pem", "other.pem"].map(path);
        let out = path("stream");
        let server = "s_server -accept 4740 -quiet -naccept 1";
        let mut server: Vec<&str> = server.split(' ').collect();
        server.extend(["-cert", &certificate, "-key", &key]);
        let start = || {
            let file = std::fs::File::create(&out).unwrap();
            let mut command = Command::new("openssl");
            command.args(&server).stdin(Stdio::piped()).stdout(file).stderr(Stdio::null());
            let program = Program(command.spawn().unwrap());
            wait_for("the collector", || run("ss", &["-Hltn", "sport = :4740"]).contains("4740"));
            program
        };
        let to = |ca: &str| Collector {
            ca: PathBuf::from(ca),
            server_name: Some("collector".into()),
            ..collector(4740, Transport::Tls)
        };
        let mut rig = Rig::new(2, 4096, 1 << 16, 31);
        go_on(&mut rig, 1_000);
        // Who the collector's certificate does not lead to gets nothing.
        let stranger = start();
        let mut elsewhere = Rig::new(1, 64, 1 << 10, 30);
        go_on(&mut elsewhere, 10);
        let mut refused = to(&other).start(&elsewhere.journal).unwrap();
        wait_for("a refusal", || refused.counts.failures.load(Ordering::Relaxed) > 0);
        elsewhere.journal.close();
        refused.stop();
        let sent = refused.counts.written.load(Ordering::Relaxed);
        assert_eq!((sent, std::fs::read(&out).unwrap().len()), (0, 0));
        drop(stranger);
        let server = start();
        let mut running = to(&ca).start(&rig.journal).unwrap();
        rig.snapshot.publish(policy(&rig.pool, given_to_networks()));
        go_on(&mut rig, 8_000);
        let newest = rig.journal.newest();
        wait_for("all records", || written(&running) >= newest);
        rig.journal.close();
        running.stop();
        wait_for("the end", || std::fs::read(&out).unwrap().len() > 16);
        drop(server);
        let pcap = directory.join("ipfix.pcap");
        assert!(capture(&std::fs::read(&out).unwrap(), &pcap) > 2);
        let (given, flows): (Vec<Flow>, Vec<Flow>) =
            flows(&pcap).into_iter().partition(|flow| flow.vrf != 0);
        let given: Vec<_> =
            given.iter().map(|it| (it.event, &*it.public, it.first, it.vrf)).collect();
        let expected =
            [(Some(16), "203.0.113.77", 8_000, 4_242), (Some(14), "203.0.113.78", 0, 99)];
        assert_eq!(given, expected);
        let events = |event| flows.iter().filter(|flow| flow.event == Some(event)).count();
        assert!(events(16) > 100 && events(17) > 50, "{} {}", events(16), events(17));
        assert_eq!(replay(&flows), plain(&rig));
        assert_eq!(running.counts.lost.load(Ordering::Relaxed), 0);
    });
}

// Proves: 8158-S4a
#[test]
fn nfcapd_reads_each_event_once() {
    in_namespace(|directory| {
        let flows = directory.join("flows");
        std::fs::create_dir(&flows).unwrap();
        let mut command = Command::new("nfcapd");
        command.args(["-b", "127.0.0.1", "-p", "4739", "-t", "3600", "-w"]).arg(&flows);
        let log = directory.join("log");
        let said = std::fs::File::create(&log).unwrap();
        let mut nfcapd = Program(command.stdout(Stdio::null()).stderr(said).spawn().unwrap());
        wait_for("nfcapd", || run("ss", &["-Hlun", "sport = :4739"]).contains("4739"));
        let mut rig = Rig::new(2, 4096, 1 << 16, 32);
        let mut running = collector(4739, Transport::Udp).start(&rig.journal).unwrap();
        for _ in 0..60 {
            go_on(&mut rig, 100);
            let newest = rig.journal.newest();
            wait_for("the records", || written(&running) >= newest);
        }
        rig.journal.close();
        running.stop();
        std::thread::sleep(Duration::from_millis(500));
        run("kill", &[&nfcapd.0.id().to_string()]);
        nfcapd.0.wait().unwrap();
        let sequence = std::fs::read_to_string(&log).unwrap();
        assert!(sequence.contains("Sequence Errors: 0, Bad Packets: 0"), "{sequence}");
        // This version of it knows no port ranges; Wireshark does.
        let text = run("nfdump", &["-R", flows.to_str().unwrap(), "-q", "-o", "json"]);
        let text = format!("[{}]", text.trim().trim_start_matches('[').trim_end_matches(']'));
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let told = rows.iter().filter_map(|row| {
            let word = |name: &str| row[name].as_str().map(str::to_owned);
            let event = word("nat_event_id")?;
            Some((event, word("src4_addr")?, word("src4_xlt_ip")?))
        });
        let mut told: Vec<_> =
            told.filter(|(event, ..)| ["16", "17"].contains(&&**event)).collect();
        let entries = rig.journal.read(1, usize::MAX).entries;
        let mut expected: Vec<_> = entries
            .iter()
            .filter_map(|entry| match &entry.what {
                Happening::Block { allotted, place, subscriber, .. } => {
                    let event = if *allotted { "16" } else { "17" };
                    Some((event.to_owned(), subscriber.to_string(), place.public.to_string()))
                }
                _ => None,
            })
            .collect();
        told.sort();
        expected.sort();
        assert!(expected.len() > 100, "{}", expected.len());
        assert_eq!(told, expected);
    });
}

/// A collector that goes away for longer than the journal keeps, and one that never reads.
// Proves: 8158-S2
#[test]
fn a_collector_that_is_away_finds_the_right_table_and_the_number_of_what_it_missed() {
    in_namespace(|directory| {
        let mut rig = Rig::new(2, 4096, 60, 33);
        let listener = TcpListener::bind("127.0.0.1:4741").unwrap();
        let mut running = collector(4741, Transport::Tcp).start(&rig.journal).unwrap();
        let (mut first, _) = listener.accept().unwrap();
        go_on(&mut rig, 500);
        let newest = rig.journal.newest();
        wait_for("the records", || written(&running) >= newest);
        let mut stream = Vec::new();
        read_all(&mut first, &mut stream);
        drop((first, listener));
        // It has hung up, and nobody listens.
        go_on(&mut rig, 6_000);
        wait_for("a failure", || running.counts.failing.load(Ordering::Relaxed));
        go_on(&mut rig, 1_000);
        let listener = TcpListener::bind("127.0.0.1:4741").unwrap();
        let (mut second, _) = listener.accept().unwrap();
        let newest = rig.journal.newest();
        wait_for("the rest", || written(&running) >= newest);
        rig.journal.close();
        running.stop();
        second.read_to_end(&mut stream).unwrap();
        let pcap = directory.join("ipfix.pcap");
        capture(&stream, &pcap);
        let flows = flows(&pcap);
        let lost = running.counts.lost.load(Ordering::Relaxed);
        let told = flows.iter().filter_map(|flow| flow.not_sent).max();
        assert!(lost > 50, "{lost}");
        assert_eq!(told, Some(lost));
        assert_eq!(replay(&flows), plain(&rig));
        let vrfs: Vec<u32> = flows.iter().map(|flow| flow.vrf).filter(|vrf| *vrf != 0).collect();
        assert_eq!(vrfs, [0_u32; 0]);
    });
}

fn read_all(from: &mut TcpStream, to: &mut Vec<u8>) {
    from.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        to.extend(&bytes[..count]);
    }
}

/// It connects, and nothing it is sent is ever read: the journal goes on, the end comes, and what is lost is known.
#[test]
fn a_collector_that_never_reads_holds_up_nobody() {
    in_namespace(|_| {
        run("sysctl", &["-qw", "net.ipv4.tcp_wmem=4096 4096 4096"]);
        run("sysctl", &["-qw", "net.ipv4.tcp_rmem=4096 4096 4096"]);
        let mut rig = Rig::new(2, 4096, 1 << 16, 34);
        rig.record_sessions();
        let listener = TcpListener::bind("127.0.0.1:4742").unwrap();
        let mut running = collector(4742, Transport::Tcp).start(&rig.journal).unwrap();
        let silent = listener.accept().unwrap();
        let begun = Instant::now();
        go_on(&mut rig, 3_000);
        let newest = rig.journal.newest();
        assert!(newest > 3_000 && begun.elapsed() < Duration::from_secs(30), "{newest}");
        wait_for("a failure", || running.counts.failures.load(Ordering::Relaxed) > 0);
        rig.journal.close();
        let begun = Instant::now();
        running.stop();
        assert!(begun.elapsed() < Duration::from_secs(15));
        assert!(running.counts.lost.load(Ordering::Relaxed) > 1_000);
        drop(silent);
    });
}
