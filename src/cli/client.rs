//! What can be typed at the commands that ask a running natgate?

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;

use super::DEFAULT_SOCKET;
use crate::usage::values;

/// Flags of every command that asks a running natgate.
#[derive(Args, Debug)]
pub(crate) struct ClientArgs {
    /// Stats socket of the running natgate
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of every command of the live view.
#[derive(Args, Debug)]
pub(crate) struct ViewArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = values::seconds)]
    pub(crate) watch: Option<f64>,
}

/// Flags of `subscribers`.
#[derive(Args, Debug)]
pub(crate) struct SubscribersArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    /// Only this internal address
    #[arg(long, value_name = "ADDRESS", value_parser = values::address)]
    pub(crate) address: Option<Ipv4Addr>,
    /// Only holders of blocks of this pool
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub(crate) limit: Option<u64>,
}

/// Flags of `sessions`.
#[derive(Args, Debug)]
pub(crate) struct SessionsArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    /// Only sessions in which this address takes part: internal, public or remote
    #[arg(long, value_name = "ADDRESS", value_parser = values::address)]
    pub(crate) address: Option<Ipv4Addr>,
    /// Only sessions of this pool
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// Only sessions of this protocol
    #[arg(long, value_name = "NAME", value_parser = values::PROTOCOLS)]
    pub(crate) protocol: Option<String>,
    /// Only sessions in this state
    #[arg(long, value_name = "STATE", value_parser = values::STATES)]
    pub(crate) state: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub(crate) limit: Option<u64>,
}

/// Flags of `events`.
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Begin after the event of this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "last", value_parser = values::whole)]
    pub(crate) since: Option<u64>,
    /// Begin with so many of the newest
    #[arg(long, value_name = "N", default_value = "100", value_parser = values::whole)]
    pub(crate) last: u64,
    /// Go on with what comes, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Flags of `who`.
#[derive(Args, Debug)]
pub(crate) struct WhoArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Public address and port, with the protocol unless it is TCP: 203.0.113.7:53/udp
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: String,
    /// When: RFC 3339, or so long ago as in -2h [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) at: Option<String>,
}

/// Flags of `drops`.
#[derive(Args, Debug)]
pub(crate) struct DropsArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    /// Show reasons for which nothing was dropped, too
    #[arg(long)]
    pub(crate) all: bool,
}

/// Flags of `drain`.
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Wait until no session is left
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait so many seconds at most, and fail if there are sessions still; what was begun goes on
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = values::whole)]
    pub(crate) timeout: Option<u64>,
}

/// Flags of `set`.
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Keys, each with its value
    #[arg(
        value_name = "KEY VALUE", required = true, num_args = 1.., allow_negative_numbers = true,
        value_parser = values::KEYS, hide_possible_values = true
    )]
    pub(crate) pairs: Vec<String>,
}

/// Flags of `get`.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Only this setting, or those whose keys begin like this
    #[arg(value_name = "KEY", value_parser = values::KEYS, hide_possible_values = true)]
    pub(crate) key: Option<String>,
}

/// Flags of `reset`.
#[derive(Args, Debug)]
pub(crate) struct ResetArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Settings
    #[arg(
        value_name = "KEY", required_unless_present = "all",
        value_parser = values::KEYS, hide_possible_values = true
    )]
    pub(crate) keys: Vec<String>,
    /// Everything that was set
    #[arg(long, conflicts_with = "keys")]
    pub(crate) all: bool,
}

/// Flags of `explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// How to ask.
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Who sends: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "SENDER")]
    pub(crate) from: String,
    /// To whom: ADDRESS:PORT[/tcp|/udp] or ADDRESS[/icmp]; tcp, unless another protocol is named
    #[arg(long, value_name = "TARGET")]
    pub(crate) to: String,
    /// The packet arrives by the tunnel with this number, where pods of several have one address
    #[arg(long, value_name = "N", value_parser = values::vni)]
    pub(crate) vni: Option<u32>,
}

/// Flags of `top`.
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Stats socket of the running natgate
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = values::seconds)]
    pub(crate) interval: f64,
}

/// Flags of `capture`.
#[derive(Args, Debug)]
pub(crate) struct CaptureArgs {
    /// Stats socket of the running natgate
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// The file; -: standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: PathBuf,
    /// Only what is dropped, for this reason if one is named
    #[arg(
        long, value_name = "REASON", num_args = 0..=1, default_missing_value = "",
        value_parser = values::REASONS, hide_possible_values = true
    )]
    pub(crate) drops: Option<String>,
    /// One end, before or after translation: address or prefix
    #[arg(long, value_name = "CIDR")]
    pub(crate) from: Option<String>,
    /// The other end
    #[arg(long, value_name = "CIDR")]
    pub(crate) to: Option<String>,
    /// Packets at most [default: 10000]
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub(crate) count: Option<u64>,
    /// Seconds at most, 540 or fewer [default: 60]
    #[arg(long, value_name = "S", value_parser = values::whole)]
    pub(crate) seconds: Option<u64>,
    /// Bytes of each packet at most [default: 256]
    #[arg(long, value_name = "BYTES", value_parser = values::whole)]
    pub(crate) snap: Option<u64>,
    /// Packets a second at most, of each worker [default: 10000]
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub(crate) rate: Option<u64>,
}

/// Flags of `detach`.
#[derive(Args, Debug)]
pub(crate) struct DetachArgs {
    /// Interfaces
    #[arg(value_name = "IF", required_unless_present = "all")]
    pub(crate) interfaces: Vec<String>,
    /// Every interface that carries a program of natgate
    #[arg(long, conflicts_with = "interfaces")]
    pub(crate) all: bool,
}
