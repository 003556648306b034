//! The mirror against the real kernel, in network namespaces of their own. These tests need root.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dataplane::interface::{InterfaceId, Mac};
use dataplane::roads::{Denial, Journey, NextHop, Route, Way};
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};

use super::*;

mod tunnels;

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
        self.run_with(super::events::RECEIVE_BUFFER, test);
    }

    /// The same, where `buffer` bytes of messages may wait.
    fn run_with<F: Future<Output = ()>>(
        &self,
        buffer: usize,
        test: impl FnOnce(Follower) -> F + Send,
    ) {
        let path = format!("/run/netns/{}", self.here);
        let body = move || {
            let file = std::fs::File::open(path).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let link = interfaces_by_name(&["in0".to_owned()]).await.unwrap().remove(0);
                let mirror =
                    Mirror::start_with(&[(ID, link.ifindex)], &[ID], buffer).await.unwrap();
                test(Follower { mirror, ifindex: link.ifindex }).await;
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
    ifindex: u32,
}

impl Follower {
    /// Waits until the mirror shows what a fresh one does, which has just read everything.
    async fn until_like_a_fresh_one(&mut self) {
        let wait = async {
            loop {
                let fresh = Mirror::start(&[(ID, self.ifindex)], &[ID]).await.unwrap().state();
                let state = self.mirror.state();
                if picture(&fresh) == picture(&state) {
                    return;
                }
                // Until something changes; what is on its way is not waited for in vain.
                let _ =
                    tokio::time::timeout(Duration::from_millis(50), self.mirror.changed()).await;
            }
        };
        let same = tokio::time::timeout(Duration::from_secs(20), wait).await;
        same.expect("the mirror shows what the kernel has");
    }

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
    state.roads.next_hop(&Journey::to(to.parse().unwrap()))
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
        follow
            .until("unreachable", |s| hop(s, "192.0.2.1") == NextHop::Denied(Denial::Unreachable))
            .await;
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

/// All that a state says of routes and rules, neighbours by their addresses.
fn picture(state: &MirrorState) -> Vec<String> {
    let router = |id| state.roads.adjacency(id).unwrap().address;
    let way = |way| match way {
        Way::Via(id) => router(id).to_string(),
        Way::OnLink(id) => format!("{id:?}"),
    };
    let describe = |(prefix, route): (Ipv4Net, &Route)| match route {
        Route::Via(id) => format!("{prefix} via {}", router(*id)),
        Route::Several(members) => {
            let ways =
                members.iter().map(|member| format!("{} {}", way(member.way), member.weight));
            format!("{prefix} by {}", ways.collect::<Vec<_>>().join(", "))
        }
        other => format!("{prefix} {other:?}"),
    };
    let tables = state.roads.tables.iter();
    let mut all: Vec<String> = tables
        .flat_map(|table| table.overlapping(Ipv4Net::default()).into_iter().map(describe))
        .collect();
    all.sort_unstable();
    all.push(format!("{} rules", state.roads.signposts.len()));
    all
}

/// A file for `ip -batch`.
struct Batch(std::path::PathBuf);

impl Batch {
    fn new(rig: &Rig, lines: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{}-{number}.batch", rig.here));
        std::fs::write(&path, lines).unwrap();
        Self(path)
    }

    /// Loads it. The runtime stands still meanwhile: nobody reads messages.
    fn load(&self, rig: &Rig) {
        run(&format!("ip -n {} -batch {}", rig.here, self.0.display()));
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn routes(verb: &str, count: u32, via: &str) -> String {
    let line = |n: u32| {
        format!("route {verb} 100.{}.{}.{}/32 via {via}\n", 64 + (n >> 16), n >> 8 & 255, n & 255)
    };
    (0..count).map(line).collect()
}

#[test]
fn lost_messages_are_noticed_and_made_good() {
    let rig = Rig::new();
    rig.run_with(8_192, async |mut follow| {
        let before = follow.mirror.state();
        let storm = routes("add", 2_000, "10.0.0.2") + &routes("replace", 1_000, "10.0.0.3");
        Batch::new(&rig, &storm).load(&rig);
        let all = |s: &MirrorState| {
            let via = |to: &str| match hop(s, to) {
                NextHop::Adjacency(id) => Some(s.roads.adjacency(id).unwrap().address.octets()[3]),
                _ => None,
            };
            via("100.64.3.231") == Some(3)
                && via("100.64.3.232") == Some(2)
                && via("100.64.7.207") == Some(2)
        };
        let state = follow.until("2,000 routes", all).await;
        assert!(state.resyncs > before.resyncs, "the buffer was meant to overflow");
        follow.until_like_a_fresh_one().await;
        // And everything that is gone.
        Batch::new(&rig, &routes("del", 2_000, "10.0.0.2").replace("via 10.0.0.2", "")).load(&rig);
        follow.until("none", |s| hop(s, "100.64.0.1") == NextHop::Unreachable).await;
        follow.until_like_a_fresh_one().await;
    });
}

#[test]
fn storms_that_fit_the_buffer_are_applied_without_reading_anew() {
    let rig = Rig::new();
    rig.run(async |mut follow| {
        // The link has come up; what follows from that is read.
        follow.until_like_a_fresh_one().await;
        let before = follow.mirror.state();
        let mut storm = routes("add", 500, "10.0.0.2");
        for _ in 0..3 {
            storm += &routes("del", 500, "10.0.0.2");
            storm += &routes("add", 500, "10.0.0.2");
            storm += &routes("replace", 500, "10.0.0.3");
            storm += &routes("replace", 500, "10.0.0.2");
        }
        Batch::new(&rig, &(storm + "route add 198.51.100.0/24 via 10.0.0.2\n")).load(&rig);
        let last =
            follow.until("the last", |s| hop(s, "198.51.100.1") != NextHop::Unreachable).await;
        assert_eq!(last.resyncs, before.resyncs);
        assert!(
            last.rebuilds - before.rebuilds < 200,
            "{} publications",
            last.rebuilds - before.rebuilds
        );
        follow.until_like_a_fresh_one().await;
    });
}

#[test]
fn a_hundred_thousand_routes_and_ten_thousand_neighbours_are_followed() {
    let rig = Rig::new();
    rig.ip("addr add 10.64.0.1/16 dev in0");
    let neighbour = |n: u32| Ipv4Addr::from(0x0a40_0100 + n);
    let route = |n: u32| {
        let prefix = Ipv4Net::new_assert(Ipv4Addr::from(0x0b00_0000 + (n << 8)), 24);
        format!("route add {prefix} via 10.0.0.{}\n", 2 + n % 4)
    };
    let fixed = |n: u32| {
        let (address, mac) = (neighbour(n), Mac([2, 0, 0, 1, (n >> 8) as u8, n as u8]));
        format!("neigh add {address} lladdr {mac} dev in0 nud permanent\n")
    };
    let bulk: String = (0..100_000).map(route).chain((0..10_000).map(fixed)).collect();
    let bulk = Batch::new(&rig, &bulk);
    rig.run(async |mut follow| {
        let known = |s: &MirrorState| {
            let routes: usize = s.roads.tables.iter().map(dataplane::lpm::Lpm::len).sum();
            let resolved = s.roads.adjacencies.iter().filter(|it| it.mac.is_some()).count();
            routes >= 100_000 && resolved >= 10_000
        };
        bulk.load(&rig);
        let loaded = std::time::Instant::now();
        follow.until("all of them", known).await;
        println!("all known {:?} after they were loaded", loaded.elapsed());
        let begin = std::time::Instant::now();
        let fresh = Mirror::start(&[(ID, follow.ifindex)], &[ID]).await.unwrap();
        println!("read at a start in {:?}", begin.elapsed());
        assert!(known(&fresh.state()));
        drop(fresh);
        let mut slowest = [Duration::ZERO; 2];
        for n in 0..20u32 {
            rig.ip(&format!("route replace 11.0.{n}.0/24 via 10.0.0.{}", 7 + n % 2));
            let begin = std::time::Instant::now();
            let router = Ipv4Addr::new(10, 0, 0, 7 + (n % 2) as u8);
            let changed = |s: &MirrorState| match hop(s, &format!("11.0.{n}.1")) {
                NextHop::Adjacency(id) => s.roads.adjacency(id).unwrap().address == router,
                _ => false,
            };
            follow.until("a route", changed).await;
            slowest[0] = slowest[0].max(begin.elapsed());
            let (address, new) = (neighbour(n * 31), Mac([2, 0, 0, 2, 0, n as u8]));
            rig.ip(&format!("neigh replace {address} lladdr {new} dev in0 nud permanent"));
            let begin = std::time::Instant::now();
            follow.until("a neighbour", |s| mac(s, &address.to_string()) == Some(new)).await;
            slowest[1] = slowest[1].max(begin.elapsed());
        }
        println!("slowest of 20 changes: a route {:?}, a neighbour {:?}", slowest[0], slowest[1]);
        follow.until_like_a_fresh_one().await;
    });
}

#[test]
fn what_the_kernel_changes_in_silence_is_followed() {
    let rig = Rig::new();
    rig.ip("link add dm0 type veth peer name dm1");
    rig.ip("link set dm1 up");
    rig.ip("link set dm0 up");
    rig.ip("addr add 10.5.0.1/24 dev dm0");
    rig.ip("addr add 10.0.0.9/24 dev in0");
    rig.run(async |mut follow| {
        rig.ip("route add 192.0.2.0/24 nexthop via 10.0.0.2 nexthop via 10.5.0.2 weight 3");
        rig.ip("route add 198.51.100.0/24 via 10.5.0.2");
        rig.ip("route add 203.0.113.0/24 via 10.0.0.2 src 10.0.0.9");
        rig.ip("route append 203.0.113.0/24 via 10.0.0.3");
        rig.ip("route prepend 203.0.113.0/24 via 10.0.0.4");
        follow.until_like_a_fresh_one().await;
        for command in [
            "link set dm0 down",
            "link set dm0 up",
            "addr del 10.0.0.9/24 dev in0",
            "route change 203.0.113.0/24 via 10.0.0.5",
            "route flush 203.0.113.0/24",
            "nexthop add id 7 via 10.0.0.2 dev in0",
            "nexthop add id 8 via 10.0.0.3 dev in0",
            "nexthop add id 9 group 7,2/8,1",
            "route add 203.0.113.0/24 nhid 9",
            "route add 203.0.113.0/25 nhid 7",
            "nexthop replace id 9 group 8,5/7",
            "nexthop replace id 7 via 10.0.0.6 dev in0",
            "nexthop del id 8",
            "nexthop del id 7",
            "link set in0 down",
            "link set in0 up",
            "rule add from 10.244.0.0/16 lookup 1000",
            "route add default via 10.0.0.2 table 1000",
            "rule del from 10.244.0.0/16 lookup 1000",
            "link del dm0",
        ] {
            rig.ip(command);
            follow.until_like_a_fresh_one().await;
        }
        assert_eq!(follow.mirror.state().resyncs, 0);
    });
}

#[test]
fn several_next_hops_and_those_of_objects_are_known_by_weight() {
    let rig = Rig::new();
    rig.run(async |mut follow| {
        let members = |s: &MirrorState| {
            let route = s.roads.route(&Journey::to("192.0.2.1".parse().unwrap())).cloned();
            let Some(Route::Several(members)) = route else { return Vec::new() };
            let router = |way| match way {
                Way::Via(id) => s.roads.adjacency(id).unwrap().address.octets()[3],
                Way::OnLink(_) => 0,
            };
            members.iter().map(|member| (router(member.way), member.weight)).collect()
        };
        rig.ip("route add 192.0.2.0/24 nexthop via 10.0.0.2 weight 3 nexthop via 10.0.0.3");
        follow.until("two", |s| members(s) == [(2, 3), (3, 1)]).await;
        rig.ip("nexthop add id 7 via 10.0.0.4 dev in0");
        rig.ip("nexthop add id 8 via 10.0.0.5 dev in0");
        rig.ip("nexthop add id 9 group 7,2/8,5");
        rig.ip("route replace 192.0.2.0/24 nhid 9");
        let by_object = follow.until("objects", |s| members(s) == [(4, 2), (5, 5)]).await;
        // A router that fails makes its flows look again.
        let generation = |s: &MirrorState| s.roads.generation_of("192.0.2.1".parse().unwrap());
        rig.ip("neigh replace 10.0.0.4 dev in0 nud failed");
        follow.until("failed", |s| generation(s) != generation(&by_object)).await;
    });
}

#[test]
fn rules_are_followed_and_what_cannot_be_is_named() {
    let rig = Rig::new();
    rig.ip("route add default via 10.0.0.2");
    rig.ip("route add default via 10.0.0.3 table 1000");
    rig.run(async |mut follow| {
        let by = |s: &MirrorState, source: &str, arrival| {
            let journey = Journey {
                source: source.parse().unwrap(),
                arrival: Some(arrival),
                ..Journey::to("192.0.2.1".parse().unwrap())
            };
            match s.roads.next_hop(&journey) {
                NextHop::Adjacency(id) => s.roads.adjacency(id).unwrap().address.octets()[3],
                _ => 0,
            }
        };
        let (pod, other) = ("10.244.1.7", "10.244.2.7");
        rig.ip("rule add from 10.244.1.0/24 iif in0 lookup 1000");
        follow.until("by the pod", |s| by(s, pod, ID) == 3 && by(s, other, ID) == 2).await;
        let state = follow.mirror.state();
        assert_eq!(by(&state, pod, InterfaceId(1)), 2, "it arrived elsewhere");
        assert!(state.refused.is_empty());
        rig.ip("rule add from 10.244.2.0/24 prohibit");
        let denied = |s: &MirrorState| by(s, other, ID) == 0;
        follow.until("prohibited", denied).await;
        rig.ip("rule add ipproto udp dport 53 lookup 1000 pref 77");
        rig.ip("rule add fwmark 0x10/0xff lookup 1000 pref 78");
        let named = follow.until("refused", |s| s.refused.len() == 2).await;
        assert!(named.refused[0].starts_with("routing rule 77 "), "{:?}", named.refused);
        assert!(named.refused[1].contains("a mark"));
        rig.ip("rule del pref 77");
        rig.ip("rule del pref 78");
        rig.ip("rule del from 10.244.2.0/24 prohibit");
        follow.until("as before", |s| by(s, other, ID) == 2 && s.refused.is_empty()).await;
    });
}

#[test]
fn failures_are_counted_and_only_an_answer_ends_one() {
    let rig = Rig::new();
    rig.peer("link set peer arp off");
    rig.run(async |mut follow| {
        follow.until("the route of the link", |s| hop(s, "10.0.0.2") != NextHop::Unreachable).await;
        let adjacency = |s: &MirrorState| match hop(s, "10.0.0.2") {
            NextHop::Adjacency(id) => s.roads.adjacency(id).copied(),
            _ => None,
        };
        follow.mirror.resolver().resolve(ID, "10.0.0.2".parse().unwrap());
        let failed = follow.until("failed", |s| adjacency(s).is_some_and(|it| it.failed)).await;
        assert_eq!(adjacency(&failed).unwrap().failures, 1);
        // The kernel forgets it, and tries again by itself: silence is no answer.
        rig.ip("neigh flush dev in0");
        follow.mirror.resolver().resolve(ID, "10.0.0.2".parse().unwrap());
        let again =
            follow.until("again", |s| adjacency(s).is_some_and(|it| it.failures == 2)).await;
        assert!(adjacency(&again).unwrap().failed);
        rig.peer("link set peer arp on");
        follow.mirror.resolver().resolve(ID, "10.0.0.2".parse().unwrap());
        let answered = follow.until("answered", |s| mac(s, "10.0.0.2") == Some(PEER)).await;
        assert!(!adjacency(&answered).unwrap().failed);
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
