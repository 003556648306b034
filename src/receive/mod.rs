//! Which receive settings of the interfaces bring packets to the worker that needs them?
//!
//! Two of a NIC's: pods' packets are spread over the queues by their source address alone, so that all of a pod arrive
//! at one worker, where it lives then; and each public address is a queue's, that of the worker whose pods prefer it.
//! Without them workers hand packets over to each other. natgate runs `ethtool`, with the arguments that it shows.

mod ethtool;
mod plan;
#[cfg(test)]
mod tests;

use dataplane::home::Homes;
use tracing::{info, warn};

use crate::api::InterfaceFacts;
use crate::api::model::ReceiveSteeringRow;
use crate::config::ReceiveSteering;

pub(crate) use self::plan::{Addresses, Side};

/// What is to be done with one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    interface: String,
    task: Task,
    state: State,
    /// What `ethtool`, or natgate, said about it.
    said: String,
}

/// What a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    /// Packets of the flow type are hashed over these fields, and were over those before.
    Hash { flow: &'static str, fields: &'static str, before: String },
    /// Filters are allowed.
    Filters,
    /// Packets of the flow type to an address go to a queue.
    Filter { flow: &'static str, address: std::net::Ipv4Addr, queue: u32 },
    /// Nothing can be done; `said` tells why.
    Nothing,
}

/// What has become of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is for the administrator.
    Wanted,
    /// It was so already.
    InPlace,
    /// natgate has done it, and undoes it in the end.
    Done,
    /// `ethtool` has refused.
    Failed,
    /// The interface can't.
    Impossible,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::InPlace => "in place",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Impossible => "impossible",
        }
    }
}

impl Step {
    /// The arguments of `ethtool`; none if there is nothing to do.
    fn arguments(&self) -> Vec<String> {
        let words = match &self.task {
            Task::Hash { flow, fields, .. } => {
                vec!["-N", &self.interface, "rx-flow-hash", flow, fields]
            }
            Task::Filters => vec!["-K", &self.interface, "ntuple", "on"],
            Task::Filter { flow, address, queue } => {
                let (address, queue) = (address.to_string(), queue.to_string());
                let words = [
                    "-N",
                    &self.interface,
                    "flow-type",
                    flow,
                    "dst-ip",
                    &address,
                    "action",
                    &queue,
                ];
                return words.map(str::to_owned).to_vec();
            }
            Task::Nothing => vec![],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    fn command(&self) -> String {
        let arguments = self.arguments();
        if arguments.is_empty() {
            String::new()
        } else {
            format!("ethtool {}", arguments.join(" "))
        }
    }

    fn is_in_force(&self) -> bool {
        matches!(self.state, State::InPlace | State::Done)
    }
}

/// The receive settings of all interfaces.
#[derive(Debug, Default)]
pub(crate) struct Receive {
    steps: Vec<Step>,
    /// What takes back what was done, in the order of doing; each the arguments of `ethtool`.
    undo: Vec<Vec<String>>,
    /// All pods' packets arrive where they live, if that is where their first one arrives.
    by_source: bool,
}

impl Receive {
    /// Asks the drivers, and does or shows what spares `workers` hand-overs.
    pub(crate) async fn prepare(
        mode: ReceiveSteering,
        sides: &[Side],
        workers: u16,
        addresses: &Addresses,
    ) -> Self {
        let mut receive = Self::default();
        if mode == ReceiveSteering::Off || workers <= 1 {
            return receive;
        }
        receive.steps = plan::steps(sides, workers, addresses).await;
        if mode == ReceiveSteering::Apply {
            receive.apply().await;
        }
        receive.by_source = plan::is_by_source(&receive.steps, sides);
        receive.tell(mode);
        receive
    }

    /// Where pods are to live.
    pub(crate) fn homes(&self) -> Homes {
        if self.by_source { Homes::by_arrival() } else { Homes::by_hash() }
    }

    async fn apply(&mut self) {
        let mut refused: Vec<String> = Vec::new();
        for step in &mut self.steps {
            if step.state != State::Wanted {
                continue;
            }
            let is_hash = matches!(step.task, Task::Hash { .. });
            if !is_hash && refused.contains(&step.interface) {
                step.state = State::Failed;
                "not tried after the failure before".clone_into(&mut step.said);
                continue;
            }
            match ethtool::carry_out(step).await {
                Ok((said, undo)) => {
                    (step.state, step.said) = (State::Done, said);
                    self.undo.push(undo);
                }
                Err(why) => {
                    (step.state, step.said) = (State::Failed, why);
                    if !is_hash {
                        refused.push(step.interface.clone());
                    }
                }
            }
        }
    }

    /// One line for each step that somebody should know of.
    fn tell(&self, mode: ReceiveSteering) {
        for step in &self.steps {
            let (interface, command, said) = (&step.interface, step.command(), &step.said);
            match step.state {
                State::Wanted => info!(
                    interface,
                    "receive steering would spare hand-overs: {command}; or let natgate do it with \
                     --receive-steering apply"
                ),
                State::Done => info!(interface, said, "receive steering: {command}"),
                State::Failed => warn!(interface, "receive steering failed: {command}: {said}"),
                State::Impossible if mode == ReceiveSteering::Apply => {
                    warn!(interface, "no receive steering: {said}");
                }
                State::InPlace | State::Impossible => {}
            }
        }
    }

    /// Takes back what was done; the last first.
    pub(crate) async fn undo(&mut self) {
        for arguments in std::mem::take(&mut self.undo).into_iter().rev() {
            let command = format!("ethtool {}", arguments.join(" "));
            match ethtool::run(&arguments).await {
                Ok(_) => info!("receive steering taken back: {command}"),
                Err(why) => warn!("receive steering stays: {command}: {why}"),
            }
        }
    }

    /// What there is to show of an interface.
    pub(crate) fn facts_of(&self, report: &dataplane::xsk::InterfaceReport) -> InterfaceFacts {
        InterfaceFacts {
            driver: report.driver.clone(),
            mode: format!("{} {}", report.attach.name(), report.bind.name()),
            attach: Some(report.attach),
            queues: report.queues,
            longest: Some(report.longest),
            warnings: report.warnings.clone(),
            receive_steering: self.rows(&report.name),
        }
    }

    /// What `natgate interfaces` shows of one.
    pub(crate) fn rows(&self, interface: &str) -> Vec<ReceiveSteeringRow> {
        let of_it = self.steps.iter().filter(|step| step.interface == interface);
        let row = |step: &Step| ReceiveSteeringRow {
            state: step.state.name().to_owned(),
            command: Some(step.command()).filter(|command| !command.is_empty()),
            said: step.said.clone(),
        };
        of_it.map(row).collect()
    }
}
