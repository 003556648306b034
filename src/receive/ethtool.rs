//! How is `ethtool` asked, and told? By its program: what natgate does is what an administrator would type.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Step, Task};

/// A driver may have to reset its NIC.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fields of a hash, as `ethtool -n` names them and as `ethtool -N` is told.
const FIELDS: [(&str, char); 7] = [
    ("L2DA", 'm'),
    ("VLAN tag", 'v'),
    ("L3 proto", 't'),
    ("IP SA", 's'),
    ("IP DA", 'd'),
    ("L4 bytes 0 & 1", 'f'),
    ("L4 bytes 2 & 3", 'n'),
];

/// Runs `ethtool`: what it wrote, or why it failed, in one line.
pub(super) async fn run(arguments: &[String]) -> Result<String, String> {
    let mut command = Command::new("ethtool");
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let done = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(format!("ethtool does not end within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("the program ethtool is not installed".to_owned());
        }
        Ok(done) => done.map_err(|error| format!("cannot run ethtool: {error}"))?,
    };
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(if said.trim().is_empty() { done.status.to_string() } else { in_line(&said) })
}

fn in_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

async fn ask(words: &[&str]) -> Result<String, String> {
    let arguments: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    run(&arguments).await
}

/// The fields that spread packets of a flow type, as letters.
pub(super) async fn hash_fields(interface: &str, flow: &str) -> Result<String, String> {
    let said = ask(&["-n", interface, "rx-flow-hash", flow]).await?;
    read_fields(&said).ok_or_else(|| format!("ethtool says {:?}", in_line(&said)))
}

pub(super) fn read_fields(said: &str) -> Option<String> {
    let mut lines = said.lines().skip_while(|line| !line.contains("use these fields")).skip(1);
    let letter = |line: &str| FIELDS.iter().find(|(name, _)| line.starts_with(name)).map(|it| it.1);
    lines
        .try_fold(String::new(), |mut letters, line| match line.trim() {
            "" | "None" => Some(letters),
            line => {
                letters.push(letter(line)?);
                Some(letters)
            }
        })
        .filter(|letters| !letters.is_empty())
}

/// Whether filters are on; `None`: the driver has none.
pub(super) async fn filters_allowed(interface: &str) -> Result<Option<bool>, String> {
    let said = ask(&["-k", interface]).await?;
    let line = said.lines().find_map(|line| line.trim().strip_prefix("ntuple-filters:"));
    Ok(match line.map(str::trim) {
        Some("on" | "on [fixed]") => Some(true),
        Some("off") => Some(false),
        _ => None,
    })
}

/// The filters that name no more than a destination: flow type, address, queue.
pub(super) async fn filters(interface: &str) -> Vec<(&'static str, Ipv4Addr, u32)> {
    read_filters(&ask(&["-n", interface]).await.unwrap_or_default())
}

pub(super) fn read_filters(said: &str) -> Vec<(&'static str, Ipv4Addr, u32)> {
    let mut found = Vec::new();
    for filter in said.split("Filter:").skip(1) {
        let value = |name: &str| {
            filter.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
        };
        let flow = match value("Rule Type:") {
            Some("TCP over IPv4") => "tcp4",
            Some("UDP over IPv4") => "udp4",
            _ => continue,
        };
        let anything = |name: &str, mask| value(name).is_none_or(|it| it.ends_with(mask));
        let only_address = anything("Src IP addr:", "mask: 255.255.255.255")
            && anything("Src port:", "mask: 0xffff")
            && anything("Dest port:", "mask: 0xffff");
        let address = value("Dest IP addr:").and_then(|it| it.strip_suffix("mask: 0.0.0.0"));
        let address = address.and_then(|it| it.trim().parse().ok());
        let queue = value("Action: Direct to queue").and_then(|it| it.parse().ok());
        if let (true, Some(address), Some(queue)) = (only_address, address, queue) {
            found.push((flow, address, queue));
        }
    }
    found
}

/// Does what `step` says: what ethtool said, and the arguments that take it back.
pub(super) async fn carry_out(step: &Step) -> Result<(String, Vec<String>), String> {
    let interface = step.interface.as_str();
    let said = in_line(&run(&step.arguments()).await?);
    let undo = match &step.task {
        Task::Hash { flow, fields, before } => {
            // It reports success for some refusals.
            let now = hash_fields(interface, flow).await?;
            if now != *fields {
                return Err(format!("{flow} is spread by {now:?} still"));
            }
            ["-N", interface, "rx-flow-hash", flow, before].map(str::to_owned).to_vec()
        }
        Task::Filters => {
            if filters_allowed(interface).await? != Some(true) {
                return Err("filters are off still".to_owned());
            }
            ["-K", interface, "ntuple", "off"].map(str::to_owned).to_vec()
        }
        Task::Filter { .. } => {
            let number = said.rsplit("Added rule with ID").next().map(str::trim);
            let number = number.filter(|it| it.parse::<u32>().is_ok());
            let Some(number) = number else {
                return Err(format!("ethtool names no rule, so it can't be taken back: {said:?}"));
            };
            ["-N", interface, "delete", number].map(str::to_owned).to_vec()
        }
        Task::Nothing => return Err("there is nothing to do".to_owned()),
    };
    Ok((said, undo))
}
