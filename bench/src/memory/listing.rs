//! What does a listing of all sessions take from established traffic?
//!
//! A worker passes packets of random sessions. Now and then somebody lists all sessions, and reads as fast as rows
//! come: faster than a client of the stats socket, which gets them as JSON.

use anyhow::{Context, Result, ensure};
use crossbeam::channel::{self, Receiver, Sender, TryRecvError};
use dataplane::request::{Request, SessionFilter, SessionRow};

use super::Way;
use super::run::{Bench, RING};
use crate::report::Spread;

/// Slices that may wait for the reader, as at the stats socket.
const SLICES: usize = 4;
/// Rounds without a listing, before each with one.
const PLAIN: usize = 512;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Nanoseconds a packet without a listing.
    pub plain: Spread,
    /// And with one.
    pub listing: Spread,
    /// The part of the rate that is lost, of neighbouring rounds.
    pub loss: Spread,
    /// Packets that pass while all sessions are listed.
    pub packets: f64,
}

/// Lists `sessions` sessions, as often as there are repetitions.
pub fn measure(sessions: u32, repetitions: usize) -> Result<Cost> {
    let mut bench = Bench::new(sessions, true)?;
    let (lists, done) = reader();
    let (mut plain, mut listing, mut loss, mut rounds) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for repetition in 0..repetitions {
        let mut median = |rounds: &mut dyn FnMut(&mut Bench) -> Result<Option<f64>>| {
            let times = std::iter::from_fn(|| rounds(&mut bench).transpose());
            let times: Vec<f64> = times.collect::<Result<_>>()?;
            Ok::<_, anyhow::Error>((
                Spread::of(times.iter().copied()).context("no rounds")?.median,
                times.len(),
            ))
        };
        let mut left = PLAIN;
        let (without, _) = median(&mut |bench| {
            left -= usize::from(left > 0);
            if left == 0 { Ok(None) } else { bench.round(Way::Out).map(Some) }
        })?;
        let mut asked = false;
        let (with, count) = median(&mut |bench| {
            if !asked {
                let (reply, list) = channel::bounded(SLICES);
                let request = Request::Sessions(SessionFilter::default(), reply);
                ensure!(bench.ask(request), "the worker takes no question");
                lists.send(list).context("the reader is gone")?;
                asked = true;
            }
            match done.try_recv() {
                Err(TryRecvError::Empty) => bench.round(Way::Out).map(Some),
                Err(TryRecvError::Disconnected) => anyhow::bail!("the reader is gone"),
                Ok(rows) => {
                    ensure!(rows == u64::from(sessions), "{rows} of {sessions} sessions listed");
                    Ok(None)
                }
            }
        })?;
        eprintln!("listing {sessions} sessions: {}/{repetitions}", repetition + 1);
        plain.push(without);
        listing.push(with);
        loss.push(1.0 - without / with);
        rounds += count;
    }
    let spread = |values: Vec<f64>| Spread::of(values).context("no repetitions");
    let packets = (rounds * RING) as f64 / repetitions as f64;
    Ok(Cost { plain: spread(plain)?, listing: spread(listing)?, loss: spread(loss)?, packets })
}

/// A thread that reads lists to their end, and says how many rows each had.
fn reader() -> (Sender<Receiver<Vec<SessionRow>>>, Receiver<u64>) {
    let (to_reader, lists) = channel::unbounded::<Receiver<Vec<SessionRow>>>();
    let (tell, done) = channel::unbounded();
    std::thread::spawn(move || {
        for list in lists {
            let rows = list.iter().map(|slice| slice.len() as u64).sum();
            if tell.send(rows).is_err() {
                return;
            }
        }
    });
    (to_reader, done)
}
