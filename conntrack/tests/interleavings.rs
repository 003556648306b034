//! What do two workers get of the state that they share, whichever way their steps fall? The code is that of the crate, over
//! loom's atomics and locks, which try every order, and every old value that a weak order lets a thread see.

#![allow(missing_docs, dead_code, unreachable_pub)]

mod sync {
    pub(crate) use loom::sync::RwLock;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
}
mod time {
    pub(crate) use conntrack::Timestamp;
}
#[path = "../src/claims.rs"]
mod claims;
#[path = "../src/directory.rs"]
mod directory;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use loom::model::Builder;
use loom::thread;

use claims::Claims;
use directory::{BlockNumber, BlockState, Directory, Holder};
use sync::{AtomicUsize, Ordering};
use time::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1000);

fn every_order(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn holder(worker: u16) -> Holder {
    Holder { subscriber: Ipv4Addr::from(0x0af4_0000 + u32::from(worker)), worker, overlay: 0 }
}

/// A directory of so many blocks, the first of which is number 16.
fn blocks(count: u16) -> Directory {
    Directory::new(1024..=1023 + 64 * count, 64)
}

/// Both draw the same block first.
fn claim(directory: &Directory, worker: u16) -> Option<BlockNumber> {
    directory.claim(holder(worker), 0, NOW)
}

#[test]
fn two_workers_never_get_one_block() {
    every_order(|| {
        let directory = blocks(2);
        let others = directory.clone();
        let other = thread::spawn(move || claim(&others, 1));
        let ours = claim(&directory, 0).expect("there are two");
        let theirs = other.join().unwrap().expect("there are two");
        assert_ne!(ours, theirs);
        assert_eq!(directory.state(ours), BlockState::Held(holder(0)));
        assert_eq!(directory.state(theirs), BlockState::Held(holder(1)));
        assert_eq!((directory.held(), claim(&directory, 0)), (2, None));
    });
}

#[test]
fn the_last_block_goes_to_one_of_two() {
    every_order(|| {
        let directory = blocks(1);
        let others = directory.clone();
        let other = thread::spawn(move || claim(&others, 1));
        let ours = claim(&directory, 0);
        let theirs = other.join().unwrap();
        assert!(ours.is_some() != theirs.is_some(), "{ours:?} and {theirs:?}");
        let worker = u16::from(theirs.is_some());
        assert_eq!(directory.worker_of(1024), Some(worker));
        assert_eq!(directory.held(), 1);
    });
}

/// That a walk found nothing is remembered, so that refused packets do not walk; never longer than it is true.
#[test]
fn a_release_during_a_walk_is_not_forgotten() {
    every_order(|| {
        let directory = blocks(2);
        let held = [claim(&directory, 0), claim(&directory, 0)].map(Option::unwrap);
        let others = directory.clone();
        let other = thread::spawn(move || claim(&others, 1));
        directory.release(held[1], holder(0), Duration::ZERO, NOW);
        let theirs = other.join().unwrap();
        let after = claim(&directory, 1);
        assert!(theirs.is_some() != after.is_some(), "{theirs:?}, then {after:?}");
        assert_eq!((directory.held(), theirs.or(after)), (2, Some(held[1])));
    });
}

/// A reload closes a block while it is claimed or given back.
#[test]
fn a_block_that_is_closed_is_nobodys() {
    every_order(|| {
        let directory = blocks(1);
        let others = directory.clone();
        let other = thread::spawn(move || {
            let got = claim(&others, 1);
            got.inspect(|block| others.release(*block, holder(1), Duration::ZERO, NOW))
        });
        directory.close(BlockNumber(16));
        other.join().unwrap();
        assert_eq!(directory.state(BlockNumber(16)), BlockState::Closed);
        assert_eq!((directory.blocks(), directory.held(), claim(&directory, 0)), (0, 0, None));
    });
}

/// Another one opens it again, while who had it all the time gives it back.
#[test]
fn a_block_that_is_open_again_is_to_be_had() {
    every_order(|| {
        let directory = blocks(1);
        let block = claim(&directory, 1).expect("there is one");
        directory.close(block);
        let others = directory.clone();
        let other = thread::spawn(move || {
            others.release(block, holder(1), Duration::ZERO, NOW);
        });
        directory.close_only(|_| false);
        other.join().unwrap();
        assert_eq!((directory.blocks(), directory.held()), (1, 0));
        assert_eq!(claim(&directory, 0), Some(block));
    });
}

#[test]
fn a_remote_without_ports_is_one_workers() {
    const GRE: u8 = 47;
    const REMOTE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    every_order(|| {
        let (claims, sent) = (Arc::new(Claims::default()), Arc::new(AtomicUsize::new(0)));
        let other = {
            let (claims, sent) = (Arc::clone(&claims), Arc::clone(&sent));
            thread::spawn(move || {
                let got = claims.claim(GRE, REMOTE, 1);
                // Its packet goes out, and is answered.
                sent.store(usize::from(got), Ordering::Release);
                got
            })
        };
        if sent.load(Ordering::Acquire) == 1 {
            assert_eq!(claims.worker_of(GRE, REMOTE), Some(1), "an answer that is nobody's");
        }
        let ours = claims.claim(GRE, REMOTE, 0);
        let theirs = other.join().unwrap();
        assert!(ours != theirs, "one remote, two workers");
        assert_eq!(claims.worker_of(GRE, REMOTE), Some(u16::from(theirs)));
        claims.release(GRE, REMOTE);
        assert!(claims.is_empty() && claims.worker_of(GRE, REMOTE).is_none());
    });
}
