//! The mirror against the real kernel, in network namespaces of their own. These tests need root.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dataplane::interface::{InterfaceId, Mac};
use dataplane::roads::NextHop;
use nix::sched::{CloneFlags, setns};

use super::*;

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// Two namespaces joined by a veth pair: `in0` 10.0.0.1/24 here, `peer` 10.0.0.2/24 there.
struct Rig {
    here: String,
    there: String,
}

impl Rig {
    fn new() -> Self {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("nga-{}-{number}{side}", std::process::id());
        let rig = Self { here: name("a"), there: name("b") };
        for ns in [&rig.here, &rig.there] {
            run(&format!("ip netns add {ns}"));
        }
        let (here, there) = (&rig.here, &rig.there);
        run(&format!("ip -n {here} link add in0 type veth peer name peer netns {there}"));
        rig.ip("link set lo up");
        rig.ip("addr add 10.0.0.1/24 dev in0");
        rig.ip("link set in0 up");
        rig.peer("addr add 10.0.0.2/24 dev peer");
        rig.peer("link set peer address 02:00:00:00:00:02 up");
        rig
    }

    fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.here));
    }

    fn peer(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.there));
    }

    /// Runs `test` in a thread of its own inside the first namespace, with a mirror of `in0`.
    fn run<F: Future<Output = ()>>(&self, test: impl FnOnce(Follower) -> F + Send) {
        let path = format!("/run/netns/{}", self.here);
        let body = move || {
            let file = std::fs::File::open(path).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let link = interfaces_by_name(&["in0".to_owned()]).await.unwrap().remove(0);
                let mirror = Mirror::start(&[(ID, link.ifindex)]).await.unwrap();
                test(Follower { mirror }).await;
            });
        };
        std::thread::scope(|scope| scope.spawn(body).join().unwrap());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for ns in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

const ID: InterfaceId = InterfaceId(0);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);

struct Follower {
    mirror: Mirror,
}

impl Follower {
    /// Waits until the published state is as `wanted`.
    async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&MirrorState) -> bool,
    ) -> Arc<MirrorState> {
        let wait = async {
            let mut state = self.mirror.state();
            while !wanted(&state) {
                state = self.mirror.changed().await.expect("the mirror runs");
            }
            state
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), wait).await;
        seen.unwrap_or_else(|_| panic!("not seen: {what}; last state {:?}", self.mirror.state()))
    }
}

fn hop(state: &MirrorState, to: &str) -> NextHop {
    state.roads.next_hop(to.parse().unwrap())
}

fn mac(state: &MirrorState, to: &str) -> Option<Mac> {
    match hop(state, to) {
        NextHop::Adjacency(id) => state.roads.adjacency(id).unwrap().mac,
        _ => None,
    }
}

#[test]
fn routes_are_followed() {
    let rig = Rig::new();
    rig.ip("route add default via 10.0.0.2");
    rig.run(async |mut follow| {
        let first = follow.mirror.state();
        let NextHop::Adjacency(gateway) = hop(&first, "192.0.2.1") else { panic!("no default") };
        assert_eq!(hop(&first, "10.0.0.1"), NextHop::NotOurs);
        assert_eq!(hop(&first, "224.0.0.5"), NextHop::NotOurs);
        assert_eq!(hop(&first, "10.0.0.255"), NextHop::NotOurs);
        let far = "10.0.0.77".parse().unwrap();
        assert_eq!(hop(&first, "10.0.0.77"), NextHop::Unknown(ID, far));
        assert_eq!(first.host_addresses[0].to_string(), "10.0.0.1/24");
        assert_eq!(first.links[0].address, Some("10.0.0.1".parse().unwrap()));
        assert!(first.links[0].up && first.links[0].driver == "veth" && first.links[0].mtu == 1500);

        rig.ip("route add 192.0.2.0/24 via 10.0.0.3");
        let added =
            follow.until("added", |s| hop(s, "192.0.2.1") != hop(&first, "192.0.2.1")).await;
        assert!(added.roads.generation != first.roads.generation);
        let NextHop::Adjacency(other) = hop(&added, "192.0.2.1") else { panic!("no route") };
        assert_ne!(other, gateway);
        rig.ip("route replace 192.0.2.0/24 via 10.0.0.2");
        follow.until("replaced", |s| hop(s, "192.0.2.1") == NextHop::Adjacency(gateway)).await;
        rig.ip("route replace unreachable 192.0.2.0/24");
        follow.until("unreachable", |s| hop(s, "192.0.2.1") == NextHop::Unreachable).await;
        rig.ip("route add 192.0.2.0/24 via 10.0.0.3 metric 5");
        rig.ip("route del unreachable 192.0.2.0/24");
        // The number of a neighbour stays, however often it comes back.
        follow.until("metric", |s| hop(s, "192.0.2.1") == NextHop::Adjacency(other)).await;
        rig.ip("route add 192.0.2.0/25 dev lo");
        follow.until("elsewhere", |s| hop(s, "192.0.2.1") == NextHop::NotOurs).await;
        rig.ip("link set in0 down");
        let down = follow.until("down", |s| !s.links[0].up).await;
        assert_eq!(hop(&down, "203.0.113.1"), NextHop::Unreachable);
    });
}

#[test]
fn gateways_are_resolved_and_their_address_is_followed() {
    let rig = Rig::new();
    rig.ip("route add default via 10.0.0.2");
    rig.run(async |mut follow| {
        // Nobody sends anything: the mirror itself has the kernel resolve the gateway.
        let first = follow.until("resolved", |s| mac(s, "192.0.2.1") == Some(PEER)).await;
        rig.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:99 dev in0 nud reachable");
        let new = Mac([2, 0, 0, 0, 0, 0x99]);
        let moved = follow.until("moved", |s| mac(s, "192.0.2.1") == Some(new)).await;
        assert_eq!(moved.roads.generation, first.roads.generation);
        rig.peer("link set peer arp off");
        rig.ip("neigh replace 10.0.0.2 dev in0 nud failed");
        follow.until("failed", |s| mac(s, "192.0.2.1").is_none()).await;
        rig.peer("link set peer arp on");
        follow.until("asked again", |s| mac(s, "192.0.2.1") == Some(PEER)).await;
        rig.ip("link set in0 mtu 1400 address 02:00:00:00:00:01");
        let own = Mac([2, 0, 0, 0, 0, 1]);
        follow.until("link", |s| s.links[0].mtu == 1400 && s.links[0].mac == own).await;
    });
}

#[test]
fn stale_gateways_are_refreshed() {
    let rig = Rig::new();
    rig.ip("route add default via 10.0.0.2");
    rig.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:99 dev in0 nud stale");
    run(&format!(
        "ip netns exec {} sysctl -qw net.ipv4.neigh.in0.delay_first_probe_time=1",
        rig.here
    ));
    rig.run(async |mut follow| {
        // The wrong address is found out by probing, which starts only if somebody asks.
        follow.until("probed", |s| mac(s, "192.0.2.1") == Some(PEER)).await;
    });
}

#[test]
fn workers_requests_resolve() {
    let rig = Rig::new();
    rig.run(async |mut follow| {
        let address = "10.0.0.2".parse().unwrap();
        // The route works once the other end of the link is up.
        let unknown = NextHop::Unknown(ID, address);
        follow.until("the route of the link", |s| hop(s, "10.0.0.2") == unknown).await;
        let resolver = follow.mirror.resolver();
        for _ in 0..10_000 {
            resolver.resolve(ID, address);
        }
        resolver.resolve(InterfaceId(7), address);
        follow.until("resolved", |s| mac(s, "10.0.0.2") == Some(PEER)).await;
    });
}

#[test]
fn storms_are_collected_and_lost_messages_made_good() {
    let rig = Rig::new();
    rig.run(async |mut follow| {
        let before = follow.mirror.state().rebuilds;
        let batch = |verb: &str| {
            let line =
                |n: u32| format!("route {verb} 100.64.{}.{}/32 via 10.0.0.2\n", n >> 8, n & 255);
            (0..2_000).map(line).collect::<String>()
        };
        let mut storm = batch("add");
        for _ in 0..10 {
            storm += &(batch("del") + &batch("add"));
        }
        let path = std::env::temp_dir().join(format!("{}.batch", rig.here));
        std::fs::write(&path, storm).unwrap();
        // The runtime stands still meanwhile: the socket's buffer overflows.
        let load = format!("ip -n {} -batch {}", rig.here, path.display());
        run(&load);
        let all = |s: &MirrorState| {
            (0..2_000u32).all(|n| {
                let to = format!("100.64.{}.{}", n >> 8, n & 255);
                matches!(hop(s, &to), NextHop::Adjacency(_))
            })
        };
        let state = follow.until("2,000 routes", all).await;
        assert!(state.rebuilds - before < 20, "{} rebuilds", state.rebuilds - before);
        assert!(state.resyncs > 0, "the buffer was meant to overflow");
        std::fs::remove_file(path).unwrap();
    });
}

#[test]
fn an_unknown_interface_is_named() {
    let rig = Rig::new();
    rig.run(async |_| {
        let error = interfaces_by_name(&["nope".to_owned()]).await.unwrap_err();
        assert_eq!(error.to_string(), "unknown interface (nope): it does not exist in this network namespace; use one of: in0, lo");
    });
}
