//! What real programs do through the gateway: FTP, SIP, IKE and ESP, resolvers with many threads,
//! namesakes, port scanners (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 curl, nmap, threads ─┐                  ┌─ s1 FTP, SIP, IKE
//!                          ├─ node ── gw ── r ┼─ s2
//!  c2 ─────────────────────┘                  └─ x nmap
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::{PATIENCE, connect, connect_from, echo, echo_datagram, pattern, udp};
use vm_test::craft::Ip;
use vm_test::inject::{INSIDE, OUTSIDE, hex};
use vm_test::oracle::packet::ICMP;
use vm_test::rig::{GATEWAY, PODS, S1, verified};
use vm_test::{Lab, Namespace, Options, Rig, server};

/// One address, so that pods must share it.
const ONE_ADDRESS: &str = include_str!("objects/one_address.yaml");
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 22);

/// What an FTP server was told, line by line.
type Told = Arc<Mutex<Vec<String>>>;

/// How an FTP client wants its data connection.
enum Data {
    Passive(TcpListener),
    Active(SocketAddr),
}

impl Data {
    fn open(self) -> Result<TcpStream> {
        Ok(match self {
            Self::Passive(listener) => listener.accept()?.0,
            Self::Active(to) => TcpStream::connect_timeout(&to, PATIENCE)?,
        })
    }
}

/// A small FTP server (RFC 959) with one file of `bytes` bytes.
fn ftp_server(namespace: &Namespace, address: Ipv4Addr, bytes: usize) -> Result<Told> {
    let listener = namespace.run(move || TcpListener::bind((address, 21)))??;
    let told = Told::default();
    let lines = Arc::clone(&told);
    namespace.spawn(move || {
        for stream in listener.incoming().flatten() {
            // A broken control connection is the client's to notice.
            let _ = ftp_session(&stream, address, bytes, &lines);
        }
    })?;
    Ok(told)
}

fn ftp_session(control: &TcpStream, address: Ipv4Addr, bytes: usize, told: &Told) -> Result<()> {
    let mut say = control;
    let mut data = None;
    say.write_all(b"220 ready\r\n")?;
    for line in BufReader::new(control).lines() {
        let line = line?;
        told.lock().expect("a server thread panicked").push(line.clone());
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match word {
            "USER" => "331 password?".to_owned(),
            "PASS" => "230 welcome".to_owned(),
            "PWD" => "257 \"/\"".to_owned(),
            "SIZE" => format!("213 {bytes}"),
            "TYPE" | "CWD" => "200 fine".to_owned(),
            "PASV" => {
                let listener = TcpListener::bind((address, 0))?;
                let [high, low] = listener.local_addr()?.port().to_be_bytes();
                let [a, b, c, d] = address.octets();
                data = Some(Data::Passive(listener));
                format!("227 here ({a},{b},{c},{d},{high},{low})")
            }
            "PORT" => {
                let numbers: Vec<u8> = rest.split(',').map(str::parse).collect::<Result<_, _>>()?;
                let [a, b, c, d, high, low] = numbers[..] else { anyhow::bail!("{rest}") };
                let port = u16::from_be_bytes([high, low]);
                data = Some(Data::Active((Ipv4Addr::new(a, b, c, d), port).into()));
                "200 fine".to_owned()
            }
            "RETR" => match data.take().context("no data connection was asked for")?.open() {
                Ok(mut stream) => {
                    say.write_all(b"150 it comes\r\n")?;
                    stream.write_all(&pattern(21, bytes))?;
                    "226 done".to_owned()
                }
                Err(_) => "425 no connection to you".to_owned(),
            },
            "QUIT" => return Ok(say.write_all(b"221 bye\r\n")?),
            _ => "502 unknown".to_owned(),
        };
        say.write_all(format!("{answer}\r\n").as_bytes())?;
    }
    Ok(())
}

/// Passive FTP works; active FTP is refused by the server, whose client hears it; no line changes.
fn ftp(rig: &Rig) -> Result<()> {
    let told = ftp_server(&rig.s1, S1[0], 300_000)?;
    let file = rig.directory().join("fetched");
    let url = format!("ftp://{}/file", S1[0]);
    let line = format!("curl -sS --connect-timeout 3 --disable-epsv -o {} {url}", file.display());
    rig.pods[0].exec(&line)?;
    ensure!(std::fs::read(&file)? == pattern(21, 300_000), "another file came");
    told.lock().expect("a server thread panicked").clear();
    let program = format!(
        "import ftplib\nf=ftplib.FTP('{}',timeout=3)\nf.login()\nf.set_pasv(False)\n\
         try: f.retrbinary('RETR file',len)\nexcept ftplib.error_temp as e: print(e)\n\
         print(f.sendcmd('SIZE file'))",
        S1[0]
    );
    let said = vm_test::namespace::output(rig.pods[0].command("python3").args(["-c", &program]))?;
    // The client hears why, and its control connection goes on.
    ensure!(said == "425 no connection to you\n213 300000\n", "active FTP: {said}");
    let told = told.lock().expect("a server thread panicked").clone();
    let port = told.iter().find(|line| line.starts_with("PORT ")).context("no PORT line")?;
    let unchanged = format!("PORT {},", PODS[0].to_string().replace('.', ","));
    ensure!(port.starts_with(&unchanged), "the server was told {port}");
    Ok(())
}

/// An INVITE with a body that a helper would touch arrives bit by bit, over UDP and TCP.
fn sip(rig: &Rig) -> Result<()> {
    let body = format!(
        "v=0\r\no=- 1 1 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n",
        PODS[0]
    );
    let invite = format!(
        "INVITE sip:b@{server} SIP/2.0\r\nVia: SIP/2.0/UDP {0}:5060;branch=z9hG4bK1\r\n\
         From: <sip:a@{0}>;tag=1\r\nTo: <sip:b@{server}>\r\nContact: <sip:a@{0}:5060>\r\n\
         Call-ID: 1@{0}\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\n\
         Content-Length: {length}\r\n\r\n{body}",
        PODS[0],
        server = S1[0],
        length = body.len()
    )
    .into_bytes();
    let socket = rig.s1.run(|| UdpSocket::bind((S1[0], 5060)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    let listener = rig.s1.run(|| TcpListener::bind((S1[0], 5060)))??;
    let sent = invite.clone();
    rig.pods[0].run(move || -> Result<()> {
        UdpSocket::bind((PODS[0], 5060))?.send_to(&sent, (S1[0], 5060))?;
        connect_from((PODS[0], 5060), (S1[0], 5060))?.write_all(&sent)?;
        Ok(())
    })??;
    let mut datagram = vec![0; 4096];
    let (length, from) = socket.recv_from(&mut datagram)?;
    ensure!(datagram[..length] == invite, "the INVITE changed: {:?}", &datagram[..length]);
    ensure!(from.ip() != PODS[0], "the server saw the pod itself");
    let mut stream = Vec::new();
    listener.accept()?.0.read_to_end(&mut stream)?;
    ensure!(stream == invite, "the INVITE over TCP changed");
    Ok(())
}

/// Two pods, both at UDP 4500: keep-alives go out, each pod's answers come to it.
fn ike(rig: &Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 4500)?;
    for (pod, address) in rig.pods.iter().zip(PODS) {
        pod.run(move || -> Result<()> {
            let socket = UdpSocket::bind((address, 4500))?;
            socket.connect((S1[0], 4500))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            for round in 0..10 {
                // A keep-alive (RFC 3948) is one byte; IKE and ESP follow at the same port.
                echo_datagram(&socket, &[0xff])?;
                echo_datagram(&socket, &pattern(round + u64::from(address.octets()[3]), 900))?;
            }
            Ok(())
        })??;
    }
    ensure!(peers.all().len() == 2, "the server saw {:?}", peers.all());
    Ok(())
}

/// Protocols without ports: address-only for one pod at a time, refused to the second one.
fn without_ports(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let mac = hex(rig.pods[0].mac("eth0")?);
    rig.node.ip(&format!("neigh replace {SECOND} lladdr {mac} dev pods nud permanent"))?;
    // GRE, ESP, SCTP, one that nobody knows.
    for protocol in [47, 50, 132, 99] {
        let body = pattern(u64::from(protocol), 120);
        lab.inside.send(&Ip::new(INSIDE, OUTSIDE, protocol).packet(&body))?;
        let got = lab.one_outside(&format!("protocol {protocol}"))?;
        let public = got.ip().source();
        ensure!(got.ip().body == body && rig.options().pool.holds(public), "{}", got.ip());
        lab.outside.send(&Ip::new(OUTSIDE, public, protocol).packet(&body))?;
        let got = lab.one_inside(&format!("the answer of protocol {protocol}"))?;
        ensure!(got.ip().body == body && got.ip().destination() == INSIDE, "{}", got.ip());
        // The same remote would not know whom to answer.
        lab.inside.send(&Ip::new(SECOND, OUTSIDE, protocol).packet(&body))?;
        let refusal = lab.inside.expect("the second pod's refusal (3/1)", |ip| {
            ip.protocol() == ICMP && ip.destination() == SECOND
        })?;
        ensure!(refusal.ip().body[..2] == [3, 1], "{}", refusal.ip());
        lab.nothing_outside(&format!("a second pod's protocol {protocol}"))?;
        // And the first one's still works.
        lab.inside.send(&Ip::new(INSIDE, OUTSIDE, protocol).packet(&body))?;
        lab.one_outside(&format!("protocol {protocol} again"))?;
    }
    // DCCP is refused by name, with an ICMP error (3/2).
    lab.inside.drain()?;
    lab.inside.send(&Ip::new(INSIDE, OUTSIDE, 33).packet(&[0; 32]))?;
    let got = lab.inside.expect("3/2 about DCCP", |ip| ip.protocol() == ICMP)?;
    ensure!(got.ip().body[..2] == [3, 2], "{}", got.ip());
    lab.nothing_outside("DCCP")
}

/// As resolvers do: two questions at once over one new socket, many sockets, no answer lost.
fn pairs(rig: &Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 53)?;
    let mut pods = Vec::new();
    for pod in &rig.pods {
        pods.push(pod.spawn(|| -> Result<()> {
            for round in 0..200_u64 {
                let socket = Arc::new(udp((S1[0], 53))?);
                let threads: Vec<_> = (0..4)
                    .map(|thread| {
                        let socket = Arc::clone(&socket);
                        std::thread::spawn(move || socket.send(&pattern(round * 4 + thread, 60)))
                    })
                    .collect();
                for thread in threads {
                    thread.join().expect("a thread panicked")?;
                }
                let mut missing: Vec<_> = (0..4).map(|it| pattern(round * 4 + it, 60)).collect();
                let mut answer = [0; 100];
                while !missing.is_empty() {
                    let length = socket.recv(&mut answer).context("an answer was lost")?;
                    let at = missing.iter().position(|it| *it == answer[..length]);
                    missing.swap_remove(at.context("an answer to no question")?);
                }
            }
            Ok(())
        })?);
    }
    for pod in pods {
        pod.join().expect("a client thread panicked")?;
    }
    // One session for each socket: no thread opened a second one.
    let seen = peers.all().len();
    ensure!(seen <= 400, "400 sockets were seen as {seen}");
    Ok(())
}

/// 5382-REQ-7: one source port, two pods, one server, both connected at once.
fn namesakes(rig: &Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], 80)?;
    let open =
        |pod: usize| rig.pods[pod].run(move || connect_from((PODS[pod], 5555), (S1[0], 80)))?;
    let (mut first, mut second) = (open(0)?, open(1)?);
    for round in 0..20 {
        echo(&mut first, &pattern(round, 1000))?;
        echo(&mut second, &pattern(round + 100, 1000))?;
    }
    ensure!(peers.all().len() == 2, "the server saw {:?}", peers.all());
    Ok(())
}

/// Port shadow (CVE-2021-3773): a pod that sends from a service's port does not become the service.
fn port_shadow(rig: &Rig) -> Result<()> {
    const SERVICE: u16 = 6000;
    rig.gw.echo(SERVICE)?;
    let shadow = rig.pods[0].run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind((PODS[0], SERVICE))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        socket.send_to(b"I am the service", (S1[0], 7777))?;
        Ok(socket)
    })??;
    let ask = |address: Ipv4Addr| {
        rig.s1.run(move || -> Result<()> {
            let socket = UdpSocket::bind((S1[0], 7777))?;
            socket.connect((address, SERVICE))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            echo_datagram(&socket, b"who are you?")
        })?
    };
    ask(GATEWAY[1]).context("the gateway's own service")?;
    let stolen = shadow.recv(&mut [0; 64]);
    ensure!(stolen.is_err(), "a pod received what was for the gateway's service");
    Ok(())
}

/// The same towards a forwarded port: the target answers, not the pod with the same source port.
fn shadow_of_a_forward(rig: &Rig) -> Result<()> {
    let shared = Ipv4Addr::new(203, 0, 113, 10);
    let peers = server::udp_echo(&rig.pods[1], PODS[1], 7000)?;
    let shadow = rig.pods[0].run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind((PODS[0], 6000))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        (0..50).try_for_each(|port| socket.send_to(b"mine", (S1[0], 7700 + port)).map(|_| ()))?;
        Ok(socket)
    })??;
    rig.s1.run(move || -> Result<()> {
        for port in 0..50 {
            let socket = UdpSocket::bind((S1[0], 7700 + port))?;
            socket.connect((shared, 6000))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            echo_datagram(&socket, b"who are you?")?;
        }
        Ok(())
    })??;
    ensure!(peers.all().len() == 50, "the target saw {:?}", peers.all());
    ensure!(shadow.recv(&mut [0; 64]).is_err(), "a pod received what was for the forwarded port");
    Ok(())
}

/// `nmap`'s word for the ports that it scanned.
fn scan(host: &Namespace, flags: &str, target: Ipv4Addr) -> Result<String> {
    host.exec(&format!("nmap -n -Pn -T5 --max-retries 0 --min-rate 3000 {flags} {target}"))
}

/// Strangers scan the pool: silence, no session, no memory; a pod's flow goes on.
fn scanned(rig: &Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], 80)?;
    let mut stream = rig.pods[0].run(|| connect((S1[0], 80)))??;
    echo(&mut stream, b"before")?;
    let (first, last) = rig.options().pool.range();
    let natgate = rig.natgate.as_ref().context("natgate does not run")?;
    let (memory, sessions) = (natgate.resident_kib()?, natgate.json(&["sessions"])?.len());
    for (flags, target) in [
        ("-sS -p 1-3000", first),
        ("-sU -p 1-1000", last),
        ("-sA -p 1-1000", last),
        ("-sX -p 1-1000", first),
    ] {
        let said = scan(&rig.x, flags, target)?;
        let silent =
            said.contains("filtered") && !said.contains("closed") && !said.contains("unfiltered");
        ensure!(silent, "{flags}: {said}");
    }
    let said = rig
        .x
        .exec(&format!("nmap -n -Pn -sO -T5 --max-retries 0 --min-rate 3000 -p 2-255 {first}"))?;
    ensure!(!said.contains("closed") && !said.contains(" open "), "protocols: {said}");
    echo(&mut stream, b"after")?;
    ensure!(natgate.json(&["sessions"])?.len() == sessions, "the scan left sessions");
    let grown = natgate.resident_kib()?.saturating_sub(memory);
    ensure!(grown < 4096, "memory grew by {grown} KiB");
    Ok(())
}

/// A pod scans a server: it learns what is open and closed, and its neighbour notices nothing.
fn scanning(rig: &Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], 80)?;
    let mut neighbour = rig.pods[1].run(|| connect((S1[0], 80)))??;
    // With repeats, unlike the silent scans: an answer may be late on a busy machine.
    let line = format!("nmap -n -Pn -sS --max-retries 5 -p 1-1000 {}", S1[0]);
    let said = rig.pods[0].exec(&line)?;
    ensure!(said.contains("80/tcp open") && said.contains("999 closed"), "{said}");
    echo(&mut neighbour, b"beside the scan")?;
    rig.pods[1].run(|| echo(&mut connect((S1[0], 80))?, b"after the scan"))??;
    let mut own = rig.pods[0].run(|| connect((S1[0], 80)))??;
    echo(&mut own, b"the scanner itself")
}

// Proves: 5382-REQ-6, 4787-REQ-10
#[test]
fn passive_ftp_works_and_active_is_refused() {
    verified(Options::default(), |rig| ftp(rig));
}

// Proves: 4787-REQ-10
#[test]
fn sip_bodies_are_untouched() {
    verified(Options::default(), |rig| sip(rig));
}

// Proves: 4787-REQ-3
#[test]
fn two_pods_speak_ike_at_one_port() {
    verified(Options::default(), |rig| ike(rig));
}

// Proves: 6888-REQ-1d
// Museum: C40
#[test]
fn protocols_without_ports_are_address_only() {
    let options = Options { config: Some(ONE_ADDRESS.to_owned()), ..Options::natgate() };
    verified(options, |rig| without_ports(rig));
}

// Museum: C1, C2
#[test]
fn no_answer_is_lost_to_a_race_of_threads() {
    verified(Options::default(), |rig| pairs(rig));
}

#[test]
fn four_workers_lose_no_answer() {
    let mut rig = Rig::start(Options::four()).unwrap();
    rig.must(pairs(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

// Proves: 5382-REQ-7, 4787-REQ-3
#[test]
fn two_pods_connect_from_one_port() {
    verified(Options::default(), |rig| namesakes(rig));
}

// Proves: 6056-S3.2b
// Museum: C35
#[test]
fn a_pod_does_not_shadow_a_port() {
    verified(Options::natgate(), |rig| port_shadow(rig));
}

// Proves: 6056-S3.2b
// Museum: C35
#[test]
fn a_pod_does_not_shadow_a_forwarded_port() {
    let config = Some(include_str!("objects/forwards.yaml").to_owned());
    verified(Options { config, ..Options::natgate() }, |rig| shadow_of_a_forward(rig));
}

// Proves: 5382-REQ-4a
// Museum: C39
#[test]
fn scans_from_outside_are_met_with_silence() {
    verified(Options::natgate(), |rig| scanned(rig));
}

#[test]
fn a_scan_by_a_pod_harms_nobody() {
    verified(Options::default(), |rig| scanning(rig));
}

/// The negative control.
#[test]
fn no_program_works_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    ftp(&rig).unwrap_err();
    ike(&rig).unwrap_err();
    namesakes(&rig).unwrap_err();
}
