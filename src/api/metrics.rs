//! What does Prometheus see? The counters as they are at the moment of the scrape (`OpenMetrics` text).

mod latency;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conntrack::EventKind;
use dataplane::IcmpError;
use dataplane::counters::{Counter, WorkerCounters};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::events::{Happening, SinkCounts};

use super::model::InterfaceRow;
use super::pools::PoolRows;
use super::shared::Shared;

/// `Content-Type` of [`render`]'s text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub(super) fn render(shared: &Arc<Shared>, pools: &Arc<PoolRows>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("natgate");
    registry.register_collector(Box::new(Export {
        shared: Arc::clone(shared),
        pools: Arc::clone(pools),
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Export {
    shared: Arc<Shared>,
    pools: Arc<PoolRows>,
}

impl Collector for Export {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families { encoder };
        self.process(&mut families)?;
        self.packets(&mut families)?;
        self.drops(&mut families)?;
        self.errors(&mut families)?;
        self.events(&mut families)?;
        self.sessions(&mut families)?;
        self.pools(&mut families)?;
        self.workers(&mut families)?;
        latency::encode(&self.shared.counters, &mut families.encoder)
    }
}

impl Export {
    fn process(&self, families: &mut Families<'_>) -> fmt::Result {
        let status = self.shared.status();
        families.gauge(
            "build_info",
            "Version of natgate",
            &[(&[("version", &status.version)], 1)],
        )?;
        families.plain_gauge("ready", "1 once traffic flows", u64::from(status.ready))?;
        families.plain_gauge(
            "draining",
            "1 while no session is opened any more",
            u64::from(status.drained_since.is_some()),
        )?;
        families.plain_gauge(
            "start_time_seconds",
            "When natgate started, in seconds since 1970",
            self.shared.started_at(),
        )?;
        families.plain_gauge("uptime_seconds", "Time since the start", status.uptime_s)?;
        families.plain_gauge(
            "config_generation",
            "Number of the configuration in force",
            u64::from(status.config_generation),
        )?;
        let [done, refused] = self.shared.reload_counts();
        families.counter(
            "config_reloads",
            "Times that the configuration was read again, by what came of it",
            &[(&[("result", "done")], done), (&[("result", "refused")], refused)],
        )?;
        let last = status.last_reload.as_ref();
        families.plain_gauge(
            "config_reload_refused",
            "1 while the configuration that was read last is refused, and the one before in force",
            u64::from(last.is_some_and(|reload| !reload.ok)),
        )?;
        families.plain_gauge(
            "roads_generation",
            "Number of the copy of the kernel's routes and neighbours in force",
            u64::from(status.roads_generation),
        )?;
        let resyncs = self.shared.mirror_resyncs.load(std::sync::atomic::Ordering::Relaxed);
        families.plain_counter(
            "mirror_resyncs",
            "Times that netlink messages were lost and the kernel's tables were read anew",
            resyncs,
        )?;
        let nanos = self.shared.mirror_lag_nanos.load(std::sync::atomic::Ordering::Relaxed);
        families.seconds_gauge(
            "mirror_lag_seconds",
            "From when the kernel told of its last change until the workers had it",
            nanos as f64 / 1e9,
        )
    }

    fn packets(&self, families: &mut Families<'_>) -> fmt::Result {
        let interfaces = self.shared.interface_rows();
        let mut packets = Vec::new();
        let mut bytes = Vec::new();
        for row in &interfaces {
            let name = row.interface.as_str();
            let received = [("interface", name), ("direction", "received")];
            let transmitted = [("interface", name), ("direction", "transmitted")];
            packets
                .extend([(received, row.received_packets), (transmitted, row.transmitted_packets)]);
            bytes.extend([(received, row.received_bytes), (transmitted, row.transmitted_bytes)]);
        }
        families.counter("packets", "Packets by interface and direction", &labelled(&packets))?;
        families.counter(
            "bytes",
            "Bytes by interface and direction, Ethernet header included",
            &labelled(&bytes),
        )?;
        let up = |row: &InterfaceRow| ([("interface", row.interface.clone())], u64::from(row.up));
        let up: Vec<_> = interfaces.iter().map(up).collect();
        families.gauge("interface_up", "1 while the interface has a link", &labelled(&up))
    }

    fn drops(&self, families: &mut Families<'_>) -> fmt::Result {
        let rows = self.shared.drops();
        let samples: Vec<_> = rows
            .iter()
            .map(|row| {
                ([("reason", row.reason.as_str()), ("where", row.place.as_str())], row.packets)
            })
            .collect();
        families.counter(
            "dropped_packets",
            "Packets dropped, by reason and by who dropped them",
            &labelled(&samples),
        )
    }

    /// What was sent to the senders of dropped packets.
    fn errors(&self, families: &mut Families<'_>) -> fmt::Result {
        let row = |&error: &IcmpError| {
            let sent = |w: &crossbeam::utils::CachePadded<WorkerCounters>| {
                w.icmp_errors_sent[error as usize].get()
            };
            let (kind, code) = error.kind();
            let labels = [("type", kind.to_string()), ("code", code.to_string())];
            (labels, self.shared.counters.iter().map(sent).sum())
        };
        let rows: Vec<_> = IcmpError::ALL.iter().map(row).collect();
        families.counter(
            "icmp_errors_sent",
            "ICMP errors sent about dropped packets, by type and code",
            &labelled(&rows),
        )
    }

    fn events(&self, families: &mut Families<'_>) -> fmt::Result {
        let samples: Vec<_> = EventKind::NAMES
            .iter()
            .enumerate()
            .map(|(kind, name)| ([("kind", *name)], self.shared.sum(|w| &w.events[kind])))
            .collect();
        families.counter(
            "limit_events",
            "Times that a limit was near or reached, by kind",
            &labelled(&samples),
        )?;
        let counts = self.shared.journal.counts();
        let kinds = counts.iter().enumerate();
        let samples: Vec<_> =
            kinds.map(|(kind, count)| ([("kind", Happening::name_of(kind))], *count)).collect();
        families.counter("events", "Entries of the journal, by kind", &labelled(&samples))?;
        self.sinks(families)
    }

    fn sinks(&self, families: &mut Families<'_>) -> fmt::Result {
        type Of = fn(&SinkCounts) -> u64;
        let samples = |of: Of| -> Vec<_> {
            let sinks = self.shared.sinks.iter();
            sinks.map(|(name, counts)| ([("sink", *name)], of(counts))).collect()
        };
        let counters: [(&str, &str, Of); 3] = [
            ("events_written", "Entries of the journal that a sink has taken", |it| {
                load(&it.written)
            }),
            ("events_lost", "Entries of the journal that a sink has lost", |it| load(&it.lost)),
            ("events_failures", "Times that a sink failed", |it| load(&it.failures)),
        ];
        for (name, help, of) in counters {
            families.counter(name, help, &labelled(&samples(of)))?;
        }
        let failing = samples(|it| u64::from(it.failing.load(Ordering::Relaxed)));
        families.gauge("events_failing", "1 while a sink fails", &labelled(&failing))
    }

    fn sessions(&self, families: &mut Families<'_>) -> fmt::Result {
        families.plain_gauge(
            "sessions_maximum",
            "Sessions that there may be, all workers together",
            self.shared.sessions_maximum,
        )
    }

    fn pools(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut blocks = Vec::new();
        let mut addresses = Vec::new();
        let pools = self.pools.get();
        for row in pools.iter() {
            let name = row.pool.as_str();
            let free = row.blocks.saturating_sub(row.blocks_held + row.blocks_resting);
            let states =
                [("held", row.blocks_held), ("resting", row.blocks_resting), ("free", free)];
            blocks.extend(states.map(|(state, count)| ([("pool", name), ("state", state)], count)));
            addresses.push(([("pool", name)], row.addresses as u64));
        }
        families.gauge("pool_blocks", "Port blocks by pool and state", &labelled(&blocks))?;
        families.gauge("pool_addresses", "Public addresses by pool", &labelled(&addresses))
    }

    fn workers(&self, families: &mut Families<'_>) -> fmt::Result {
        for (name, help, of) in GAUGES {
            families.gauge(name, help, &labelled(&self.by_worker(*of)))?;
        }
        let received: Vec<_> = self
            .shared
            .counters
            .iter()
            .enumerate()
            .map(|(number, worker)| {
                let packets = worker.interfaces.iter().map(|it| it.received_packets.get()).sum();
                ([("worker", number.to_string())], packets)
            })
            .collect();
        families.counter(
            "received_packets",
            "Packets received by interfaces; by bursts: how full these are",
            &labelled(&received),
        )?;
        for (name, help, of) in COUNTERS {
            families.counter(name, help, &labelled(&self.by_worker(*of)))?;
        }
        Ok(())
    }

    fn by_worker(&self, of: Of) -> Vec<([(&'static str, String); 1], u64)> {
        let workers = self.shared.counters.iter().enumerate();
        workers
            .map(|(number, worker)| ([("worker", number.to_string())], of(worker).get()))
            .collect()
    }
}

type Of = fn(&WorkerCounters) -> &Counter;

const GAUGES: &[(&str, &str, Of)] = &[
    ("sessions", "Sessions now", |w| &w.sessions),
    ("subscribers", "Subscribers now", |w| &w.subscribers),
    ("held_packets", "Packets that wait for a next hop or a first fragment", |w| &w.held),
    ("answers_held", "Answers of natgate's own that wait for a next hop", |w| &w.answers_held),
    ("fragmented_datagrams", "Datagrams whose fragments are followed", |w| &w.fragmented_datagrams),
    ("frames_free", "Frames in the worker's free list", |w| &w.frames_free),
    ("frames_in_kernel", "Frames with the kernel", |w| &w.frames_in_kernel),
];

const COUNTERS: &[(&str, &str, Of)] = &[
    ("forwarded_packets", "Packets translated or exempt and sent on", |w| &w.forwarded),
    (
        "answered_packets",
        "Packets answered by natgate itself: ARP, pings, segments without session",
        |w| &w.answered,
    ),
    ("icmp_errors_limited", "ICMP errors not sent, because of their rate", |w| {
        &w.icmp_errors_limited
    }),
    ("resets_sent", "Resets sent about dropped segments and expired sessions", |w| &w.resets_sent),
    (
        "resets_missed",
        "Resets about expired sessions not sent, for want of a frame or of a known next hop",
        |w| &w.resets_missed,
    ),
    (
        "sessions_unannounced",
        "Sessions that expired without resets, because too many expired at once",
        |w| &w.sessions_unannounced,
    ),
    ("resets_limited", "Resets about dropped segments not sent, because of their rate", |w| {
        &w.resets_limited
    }),
    ("answers_lost", "Answers of natgate's own that waited for a next hop in vain", |w| {
        &w.answers_lost
    }),
    ("handed_over_packets", "Packets given to their home worker", |w| &w.handed_over),
    ("taken_over_packets", "Packets taken from other workers", |w| &w.taken_over),
    ("slow_path_packets", "Packets that took the slow path", |w| &w.slow_path),
    ("checksums_repaired", "Partial checksums computed whole", |w| &w.checksums_repaired),
    ("fragments_sent", "Fragments made of packets that were too big", |w| &w.fragments_sent),
    ("ip_id_reused", "IP identifications given out again within 120 s", |w| &w.ip_id_reused),
    ("sessions_created", "Sessions ever created", |w| &w.sessions_created),
    ("sessions_ended", "Sessions ever ended", |w| &w.sessions_ended),
    ("rests_cut_short", "Ports that rested for less than they should", |w| &w.rests_cut_short),
    ("busy_loops", "Loops that found packets", |w| &w.busy_loops),
    ("idle_loops", "Loops that found none", |w| &w.idle_loops),
    ("bursts", "Bursts received that were not empty", |w| &w.bursts),
    ("sleeps", "Times that the worker slept", |w| &w.sleeps),
    ("wakeups", "Wake-up system calls", |w| &w.wakeups),
    ("transmit_ring_full_packets", "Packets that did not fit a transmit ring", |w| {
        &w.transmit_ring_full
    }),
    (
        "receive_ring_full_packets",
        "Packets that the kernel dropped, because a receive ring was full",
        |w| &w.receive_ring_full,
    ),
    ("fill_ring_empty", "Times that the kernel found a fill ring empty", |w| &w.fill_ring_empty),
    (
        "events_missing",
        "Records of events that workers had no room for; the journal says where they are missing",
        |w| &w.records_lost,
    ),
    (
        "notices_lost",
        "Wishes to have a neighbour resolved that did not reach the control thread; they are repeated",
        |w| &w.notices_lost,
    ),
];

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// One sample: labels and value.
type Sample<'a, V> = (&'a [(&'static str, V)], u64);

fn labelled<'a, V, const N: usize>(
    samples: &'a [([(&'static str, V); N], u64)],
) -> Vec<Sample<'a, V>> {
    samples.iter().map(|(labels, value)| (labels.as_slice(), *value)).collect()
}

struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn plain_counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counter::<&str>(name, help, &[(&[], value)])
    }

    fn seconds_gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        family.encode_gauge(&value)
    }

    fn plain_gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauge::<&str>(name, help, &[(&[], value)])
    }

    fn counter<V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        samples: &[Sample<'_, V>],
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            let labels = text_labels(labels);
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, u64>(value, None)?;
            } else {
                let mut sample = family.encode_family(&labels)?;
                sample.encode_counter::<NoLabelSet, _, u64>(value, None)?;
            }
        }
        Ok(())
    }

    fn gauge<V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        samples: &[Sample<'_, V>],
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            let labels = text_labels(labels);
            if labels.is_empty() {
                family.encode_gauge(value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(value)?;
            }
        }
        Ok(())
    }
}

fn text_labels<'a, V: AsRef<str>>(labels: &'a [(&'static str, V)]) -> Vec<(&'static str, &'a str)> {
    labels.iter().map(|(key, value)| (*key, value.as_ref())).collect()
}
