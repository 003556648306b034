//! Where and of what was it measured? Stands beside every published figure.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Machine, program and command of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Cores that the system shows.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Commit, with `-dirty` if files were changed since.
    pub commit: String,
    /// Arguments of the program.
    pub command: String,
    /// When it began, in UTC.
    pub date: String,
}

impl Machine {
    /// This machine, now; what it does not tell is empty.
    pub fn here() -> Self {
        let output = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            cpu: model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            memory: kibibytes.unwrap_or_default() / 1024,
            kernel: output("uname", &["-r"]).unwrap_or_default(),
            commit: output("git", &["describe", "--always", "--dirty"]).unwrap_or_default(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            date: output("date", &["-u", "+%F %H:%M UTC"]).unwrap_or_default(),
        }
    }

    /// As one line.
    pub fn line(&self) -> String {
        let Self { cpu, cores, memory, kernel, commit, command, date } = self;
        let gibibytes = memory.div_ceil(1024);
        format!(
            "{cpu}, {cores} cores, {gibibytes} GiB; Linux {kernel}; commit {commit}; {date}; `tools/bench {command}`"
        )
    }
}
