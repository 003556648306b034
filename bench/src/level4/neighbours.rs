//! How long do packets wait while a worker follows a change of routes or neighbours?

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use conntrack::PoolSettings;
use dataplane::forward::Forwards;
use dataplane::interface::Mac;
use dataplane::io::BURST;
use dataplane::roads::{Adjacency, AdjacencyId, Roads, Route};
use dataplane::snapshot::{Answers, Snapshot};
use ipnet::Ipv4Net;

use crate::gateway::{Gateway, INSIDE, Setup};
use crate::report::Spread;

/// Changes of each kind.
const CHANGES: u32 = 400;

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A route comes.
    Route,
    /// A neighbour has another Ethernet address.
    Moved,
    /// A neighbour comes.
    New,
    /// An interface has another MTU: everything is looked at again.
    Mtu,
}

impl Change {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Route, Self::Moved, Self::New, Self::Mtu];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "a route",
            Self::Moved => "a neighbour's Ethernet address",
            Self::New => "a new neighbour",
            Self::Mtu => "an interface's MTU",
        }
    }

    /// The `n`th change of `snapshot`.
    fn make(self, n: u32, snapshot: &mut Snapshot) {
        let mut roads = Roads::clone(&snapshot.roads);
        let all = &mut roads.adjacencies;
        match self {
            Self::Route => {
                let prefix = Ipv4Net::new_assert(Ipv4Addr::from(0x3000_0000 + (n << 8)), 24);
                roads.tables[0].insert(prefix, Route::Via(AdjacencyId(1)));
                roads.note_change(prefix);
            }
            Self::Moved => {
                let all = Arc::make_mut(all);
                let at = n as usize * 7_919 % all.len();
                all[at].mac = Some(Mac([2, 1, 0, 0, (n >> 8) as u8, n as u8]));
            }
            Self::New => Arc::make_mut(all).push(neighbour(1 << 20 | n)),
            Self::Mtu => snapshot.interfaces[0].mtu = 1_400 + (n % 100) as u16,
        }
        snapshot.roads = Arc::new(roads);
    }
}

/// A neighbour inside.
fn neighbour(n: u32) -> Adjacency {
    let address = Ipv4Addr::from(0xac10_0000 + n);
    Adjacency::new(INSIDE, address, Some(Mac([2, 0, 1, (n >> 16) as u8, (n >> 8) as u8, n as u8])))
}

/// Microseconds of a turn without packets that follows a change, with so many neighbours.
pub fn measure(change: Change, neighbours: u32) -> Result<Spread> {
    let mut gateway = Gateway::new(&Setup {
        workers: 1,
        sessions: 1 << 10,
        frames: 4 * BURST,
        addresses: 4,
        pool: PoolSettings::default(),
        forwards: Forwards::default(),
        answers: Answers::default(),
        mtu: [1500; 2],
        tunnel: false,
    })?;
    let mut snapshot = Snapshot::clone(&gateway.snapshot.get());
    let mut roads = Roads::clone(&snapshot.roads);
    let all = Arc::make_mut(&mut roads.adjacencies);
    ensure!(neighbours as usize >= all.len(), "error: --neighbours ({neighbours}): too few");
    all.extend((all.len() as u32..neighbours).map(neighbour));
    snapshot.roads = Arc::new(roads);
    gateway.snapshot.publish(snapshot.clone());
    let now = gateway.now;
    gateway.workers[0].turn(now);
    let times = (0..CHANGES).map(|n| {
        change.make(n, &mut snapshot);
        gateway.snapshot.publish(snapshot.clone());
        let start = Instant::now();
        gateway.workers[0].turn(now);
        start.elapsed().as_nanos() as f64 / 1e3
    });
    Spread::of(times).context("no changes")
}
