//! Who keeps records while a gateway runs?

use std::sync::Arc;

use crate::config::{Events, Gateway};
use crate::events::{Before, Collector, Journal, Rings, Running, SinkCounts, Who};

use super::dataplane::Dataplane;

/// The journal of a running gateway, and everybody who follows it.
#[derive(Debug)]
pub(super) struct Recording {
    /// What has happened.
    pub(super) journal: Arc<Journal>,
    /// Who has, or had, which ports.
    pub(super) who: Arc<Who>,
    /// Those who write the journal down, and what they are called in metrics.
    pub(super) sinks: Vec<(&'static str, Running)>,
    collector: Collector,
}

impl Recording {
    /// Starts to take what workers record.
    pub(super) fn start(
        gateway: &Gateway,
        dataplane: &Dataplane,
        rings: Rings,
        before: Before,
    ) -> anyhow::Result<Self> {
        let clock = dataplane.clock();
        let journal = Arc::new(Journal::new(clock.now()));
        let destinations = gateway.events.destinations;
        let collector = Collector::start(
            Arc::clone(&journal),
            rings,
            dataplane.snapshot(),
            clock,
            destinations,
            before,
        )?;
        let Events { file, attribution, ipfix, .. } = &gateway.events;
        let mut sinks = Vec::new();
        if let Some(kept) = attribution {
            sinks.push(("attribution", kept.start(&gateway.state_dir, &journal)?));
        }
        if let Some(file) = file {
            sinks.push(("file", file.start(&journal)?));
        }
        if let Some(collector) = ipfix {
            sinks.push(("ipfix", collector.start(&journal)?));
        }
        let kept = attribution.map(|_| gateway.state_dir.as_path());
        let who = Arc::new(Who::new(Arc::clone(&journal), kept));
        Ok(Self { journal, who, sinks, collector })
    }

    /// What becomes of the entries of those who write the journal down.
    pub(super) fn counts(&self) -> Vec<(&'static str, Arc<SinkCounts>)> {
        self.sinks.iter().map(|(name, sink)| (*name, Arc::clone(&sink.counts))).collect()
    }

    /// Takes what is left, and lets followers finish. To be called when the workers have ended.
    pub(super) fn stop(&mut self) {
        self.collector.stop();
        self.sinks.iter_mut().for_each(|(_, sink)| sink.stop());
    }
}
