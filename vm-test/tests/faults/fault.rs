//! What is one fault, and what must be true after it?

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_test::guest::Machine;
use vm_test::oracle::balance;
use vm_test::table::Table;
use vm_test::{Options, Rig};

use crate::load::{Load, PATIENCE};

/// Where the measured times are.
pub(crate) const TABLE: Table = Table {
    document: "docs/reliability.md",
    head: "| fault | where | connections | no answer for | answers again after | transfer goes on after | to repeat it |",
    wish: "NATGATE_WRITE_RELIABILITY",
};

/// Idle connections, of both pods together.
const IDLE: usize = 500;

/// Where the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a namespace, between veths.
    Namespace,
    /// In a virtual machine, with virtio-net.
    Guest,
}

impl Place {
    /// As the table says it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Namespace => "veth".to_owned(),
            Self::Guest => format!("virtio-net, {}", vm_test::guest::Kernel::from_env().name()),
        }
    }
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// All live on.
    Live,
    /// All are reset, and nobody is left without an answer.
    Reset,
}

/// One fault.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// Name of its tests, and in the table.
    pub(crate) name: &'static str,
    /// Where it can happen.
    pub(crate) places: &'static [Place],
    /// What is different from the start.
    pub(crate) prepare: fn(&Rig) -> Result<()>,
    /// Makes it happen, and returns when its cause is over.
    pub(crate) inflict: fn(&mut Rig, &Load) -> Result<()>,
    /// Datagrams are answered again within this time after the cause is over.
    pub(crate) within: Duration,
    /// How long the transfer waits for a piece.
    pub(crate) patience: Duration,
    /// What becomes of connections.
    pub(crate) connections: Connections,
    /// Bytes that the guest's taps take before they are passed on; without end if `None`.
    pub(crate) send_buffer: Option<u32>,
    /// Queues of each interface.
    pub(crate) queues: u16,
    /// Workers.
    pub(crate) workers: u16,
    /// The kernel is willing to forward what natgate does not take.
    pub(crate) forwards: bool,
    /// Both captures are compared: not where the link inside is removed with the capture there, or the kernel answers by
    /// itself.
    pub(crate) compared: bool,
}

/// Most of a fault.
pub(crate) const USUAL: Fault = Fault {
    name: "",
    places: &[Place::Namespace, Place::Guest],
    prepare: |_| Ok(()),
    inflict: |_, _| Ok(()),
    within: Duration::from_secs(2),
    patience: PATIENCE,
    connections: Connections::Live,
    send_buffer: None,
    queues: 1,
    workers: 1,
    forwards: true,
    compared: true,
};

impl Fault {
    fn options(&self, place: Place) -> Options {
        // Few machines have less than two queues; most namespaces have no more than one.
        let least = if place == Place::Guest { 2 } else { 1 };
        let (queues, workers) = (self.queues.max(least), self.workers.max(least));
        let machine = || Machine { send_buffer: self.send_buffer, ..Machine::with_queues(queues) };
        Options {
            machine: (place == Place::Guest).then(machine),
            queues,
            workers,
            // Taps finish what senders leave to their cards; errors quote it finished, and captures show it unfinished.
            sender_checksum_offload: place == Place::Namespace,
            gateway_forwards: self.forwards,
            config: Some(include_str!("../objects/short_grace.yaml").to_owned()),
            ..Options::natgate()
        }
    }

    /// Makes it happen under load and checks everything.
    pub(crate) fn run(&self, place: Place) {
        let mut rig = Rig::without_translator(self.options(place)).expect("the rig");
        rig.must((self.prepare)(&rig));
        let started = rig.start_captures().and_then(|()| rig.start_translator());
        rig.must(started);
        let done = self.happens(&mut rig, place);
        rig.must(done.with_context(|| self.name.to_owned()));
        let looked = if self.compared { rig.verify().map(drop) } else { rig.verify_outside() };
        rig.must(looked);
        let ended = ends_in_order(&mut rig);
        rig.must(ended);
    }

    fn happens(&self, rig: &mut Rig, place: Place) -> Result<()> {
        // What a machine that emulates another takes longer for is not natgate's.
        let slower = rig.gw.slower();
        let load = Load::begin(rig, IDLE, self.patience)?;
        let begun = Instant::now();
        (self.inflict)(rig, &load)?;
        let over = Instant::now();
        load.answers(over, self.within * slower)?;
        let outage = load.old.longest_silence(begun);
        // TCP sends again after twice the time that it has waited, at most; and who waits for bytes of a connection that is
        // forgotten hears nothing until he loses patience.
        let patience =
            if self.connections == Connections::Reset { PATIENCE } else { Duration::ZERO };
        let limit = self.within * slower + outage * 2 + Duration::from_secs(10) + patience;
        load.flows(over, limit)?;
        let times = [load.old.first_after(over), load.bulk.first_after(over)];
        let broken = load.broken.load(Ordering::Relaxed);
        let (live, reset) = load.end()?;
        balance::settled(rig.natgate()?)?;
        match self.connections {
            Connections::Live => ensure!(
                (live, broken) == (IDLE, 0),
                "{live} of {IDLE} idle connections live, {reset} were reset, {broken} transfers broke"
            ),
            Connections::Reset => ensure!(reset == IDLE, "{live} live, {reset} were reset"),
        }
        self.note(place, outage, times, (live, reset))
    }

    /// A row of the table.
    fn note(
        &self,
        place: Place,
        outage: Duration,
        [answers, transfer]: [Option<Duration>; 2],
        (live, reset): (usize, usize),
    ) -> Result<()> {
        let text = |time: Option<Duration>| time.map_or_else(|| "?".to_owned(), seconds);
        let kernel = match place {
            Place::Namespace => String::new(),
            Place::Guest => {
                format!("VM_TEST_KERNEL={} ", vm_test::guest::Kernel::from_env().name())
            }
        };
        let module = if place == Place::Guest { "guests" } else { "namespaces" };
        let cells = [
            self.name.replace('_', " "),
            place.name(),
            if reset == 0 { format!("{live} live") } else { format!("{reset} reset") },
            seconds(outage),
            text(answers),
            text(transfer),
            format!("`{kernel}… 'binary(faults) & test(={module}::{})'`", self.name),
        ];
        TABLE.note(2, &cells)
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// natgate stops, and every frame is where it should be.
fn ends_in_order(rig: &mut Rig) -> Result<()> {
    let status = rig.natgate()?.terminate()?;
    let log = rig.natgate()?.log();
    ensure!(status.success(), "natgate ended with {status}: {log}");
    ensure!(log.contains("every frame accounted for"), "frames are missing: {log}");
    Ok(())
}
