//! How do packets come from the workers to a client? Through bounded channels; who reads too slowly misses some, and is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use dataplane::capture::{CaptureOrder, CaptureState, Captured, Copied, Fate};
use dataplane::request::Request;
use dataplane::snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Wanted;
use super::pcapng::{self, Packet, Way};
use crate::api::Shared;

/// Packets that may wait between workers and the writer.
const WAITING: usize = 4_096;
/// Pieces of the file that may wait for the client.
const PIECES: usize = 16;
/// A client that reads nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The writer looks this often whether it is time to end.
const LOOK: Duration = Duration::from_millis(100);

/// Ends the capture at the workers, whatever ends it here.
struct States(Vec<Arc<CaptureState>>);

impl Drop for States {
    fn drop(&mut self) {
        for state in &self.0 {
            state.ended.store(true, Ordering::Relaxed);
        }
    }
}

/// The file, as it is written. Or why there is none.
pub(crate) fn stream(
    shared: Arc<Shared>,
    wanted: &Wanted,
    permit: OwnedSemaphorePermit,
) -> Result<Body, String> {
    let (to_client, from_writer) = mpsc::channel::<Result<Bytes, io::Error>>(PIECES);
    let (packets, captured) = bounded(WAITING);
    let states = States(order(&shared, wanted, &packets)?);
    drop(packets);
    let (count, end, snap) = (wanted.count, Instant::now() + wanted.time, wanted.snap);
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || {
        let send = |bytes: Vec<u8>| {
            let sent = to_client.send(Ok(Bytes::from(bytes)));
            let sent = handle.block_on(async { tokio::time::timeout(PATIENCE, sent).await });
            matches!(sent, Ok(Ok(())))
        };
        let snapshot = shared.snapshot.get();
        let names = snapshot.interfaces.iter().map(|interface| interface.name.as_str());
        let mut alive = send(pcapng::begin(names, snap));
        let epoch = epoch(&shared);
        let (mut number, mut stopped) = (0, false);
        while alive && number < count && Instant::now() < end {
            match captured.recv_timeout(LOOK) {
                Ok(packet) => {
                    let mut piece = Vec::new();
                    number += 1;
                    write(&mut piece, &snapshot, &packet, (number, epoch));
                    while number < count && piece.len() < 1 << 16 {
                        let Ok(packet) = captured.try_recv() else { break };
                        number += 1;
                        write(&mut piece, &snapshot, &packet, (number, epoch));
                    }
                    alive = send(piece);
                }
                Err(RecvTimeoutError::Timeout) => alive = !to_client.is_closed(),
                Err(RecvTimeoutError::Disconnected) => {
                    stopped = true;
                    break;
                }
            }
        }
        let missed = states.0.iter().map(|state| state.missed.get()).sum();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        drop(states);
        let _ = send(pcapng::end(now, missed, stopped));
        drop(permit);
    });
    let pieces = futures_util::stream::unfold(from_writer, async |mut from_writer| {
        let piece = from_writer.recv().await?;
        Some((piece, from_writer))
    });
    Ok(Body::from_stream(pieces))
}

/// Orders the capture from every worker.
fn order(
    shared: &Shared,
    wanted: &Wanted,
    packets: &Sender<Captured>,
) -> Result<Vec<Arc<CaptureState>>, String> {
    let mut states = States(Vec::new());
    for (number, worker) in shared.workers.iter().enumerate() {
        let state = Arc::<CaptureState>::default();
        let order = CaptureOrder {
            filter: wanted.filter.clone(),
            snap: wanted.snap,
            per_second: wanted.rate,
            until: (shared.now)() + wanted.time,
            packets: packets.clone(),
            state: Arc::clone(&state),
        };
        let asked = worker.requests.try_send(Request::Capture(order));
        asked.map_err(|_| {
            format!("cannot ask (worker {number}): it takes no questions now; try again")
        })?;
        (worker.wake)();
        states.0.push(state);
    }
    Ok(std::mem::take(&mut states.0))
}

/// When the workers' clock was 0, since 1970.
fn epoch(shared: &Shared) -> Duration {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.saturating_sub(Duration::from_millis((shared.now)().as_millis()))
}

/// A packet before and after; both have its number.
fn write(out: &mut Vec<u8>, snapshot: &Snapshot, it: &Captured, (number, epoch): (u64, Duration)) {
    let at = epoch + it.at;
    let interface = |copied: &Copied| {
        let known = copied.interface.index() < snapshot.interfaces.len();
        if known { copied.interface.index() as u32 } else { 0 }
    };
    let mut put = |copied: &Copied, way: Way, comment: &str| {
        let (interface, len, bytes) = (interface(copied), copied.len, &*copied.bytes);
        pcapng::packet(out, &Packet { interface, at, way, len, bytes, comment });
    };
    let (came, left) = match it.fate {
        Fate::Passed => ("before translation".to_owned(), "after translation"),
        Fate::Answered => ("answered by natgate".to_owned(), "natgate's answer"),
        Fate::Dropped(reason) => {
            (format!("dropped as {}: {}", reason.name(), reason.remedy()), "natgate's answer")
        }
        Fate::Waits => ("waits for a next hop or for other fragments".to_owned(), ""),
    };
    put(&it.arrived, Way::In, &format!("#{number}, worker {}: {came}", it.worker));
    for copied in &it.sent {
        put(copied, Way::Out, &format!("#{number}, worker {}: {left}", it.worker));
    }
}
