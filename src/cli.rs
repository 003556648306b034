//! What can be typed?

mod client;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::usage::values::Words;

pub(crate) use client::{
    CaptureArgs, ClientArgs, DetachArgs, DrainArgs, DropsArgs, EventsArgs, ExplainArgs, GetArgs,
    ResetArgs, SessionsArgs, SetArgs, SubscribersArgs, TopArgs, ViewArgs, WhoArgs,
};

/// The stats socket, unless another one is named.
pub(crate) const DEFAULT_SOCKET: &str = "/run/natgate.sock";
/// Where a gateway keeps what must survive it, unless another directory is named.
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/natgate";

/// Userspace egress NAT gateway on `AF_XDP`.
#[derive(Debug, Parser)]
#[command(name = "natgate", bin_name = "natgate", version, about, arg_required_else_help = true)]
#[command(after_help = "\
Example:
  natgate run --internal eth0 --external eth1 \\
    --pool 192.0.2.10-192.0.2.13 --from 10.244.0.0/16

Exit status: 0 done, 1 failed, 2 wrong usage or invalid configuration.
Errors: `error: WHAT (WHERE): WHY; WHAT TO DO`.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Translate: take the pods' traffic and carry it out and back
    #[command(after_long_help = "\
Example:
  natgate run --internal eth0 --external eth1 \\
    --pool 192.0.2.10-192.0.2.13 --from 10.244.0.0/16
  natgate run --config /etc/natgate

Stays in the foreground and logs to standard error; prints a line with `ready`
when traffic flows. SIGTERM ends it in order, SIGHUP has --config read again;
pod traffic stays blocked then, unless --on-exit pass.

Flags alone make one pool with the profile high-density. Profiles, limits,
timers, port forwards, 1:1 addresses and several pools are objects: --config.
Flags override the Gateway object.")]
    Run(GatewayArgs),
    /// Validate a configuration and show what it would do, changing nothing
    #[command(after_long_help = "\
Example:
  natgate check --config /etc/natgate
  natgate check --config gateway.yaml --workers 4 --json

Shows every setting in force, and warns of each requirement of an RFC that a
setting loses against the pool's profile. Needs no privileges. Every mistake is
shown at once; exit status 2 if there is one.")]
    Check(CheckArgs),
    /// Show the state of the running gateway
    #[command(
        after_long_help = "Example:\n  natgate status\n  natgate status --watch\n  natgate status --json"
    )]
    Status(ViewArgs),
    /// Show address pools and how full they are
    #[command(after_long_help = "Example:\n  natgate pools\n  natgate pools --json")]
    Pools(ViewArgs),
    /// Show subscribers: internal addresses with what they hold
    #[command(after_long_help = "\
Example:
  natgate subscribers --pool default --limit 20
  natgate subscribers --address 10.244.1.7 --json")]
    Subscribers(SubscribersArgs),
    /// Show sessions
    #[command(after_long_help = "\
Example:
  natgate sessions --address 10.244.1.7 --protocol tcp
  natgate sessions --state established --json | jq .public")]
    Sessions(SessionsArgs),
    /// Show what has happened: port blocks, limits, changes; and follow it
    #[command(after_long_help = "\
Example:
  natgate events
  natgate events --follow --json
  natgate events --since 1200 --json

Each event has a number, one more than the one before; the first since the
start is 1. The newest 65,536 are kept in memory.")]
    Events(EventsArgs),
    /// Show which pod has, or had, a public endpoint
    #[command(after_long_help = "\
Example:
  natgate who 203.0.113.7:40123
  natgate who 203.0.113.7:53/udp --at -2h
  natgate who 203.0.113.7:40123 --at 2026-03-01T14:02:00Z --json

Port blocks tell, and port forwards and 1:1 addresses. Where pods share ports
(the region for DNS, protocols without ports), only sessions do: events:
{sessions: true} in the Gateway object. Records of the past are in the
directory of --state-dir, 30 days.")]
    Who(WhoArgs),
    /// Show why packets were dropped, and what to do about it
    #[command(after_long_help = "Example:\n  natgate drops\n  natgate drops --all --json")]
    Drops(DropsArgs),
    /// Show the workers and their load
    #[command(after_long_help = "Example:\n  natgate workers --watch 1\n  natgate workers --json")]
    Workers(ViewArgs),
    /// Show the interfaces of the gateway
    #[command(after_long_help = "Example:\n  natgate interfaces\n  natgate interfaces --json")]
    Interfaces(ViewArgs),
    /// Show everything on a full screen that stays up to date: rates, pools, subscribers, drops, workers
    #[command(after_long_help = "\
Example:
  natgate top
  natgate top --interval 0.5

Keys: h help, s sort the subscribers, / filter, f freeze, q quit. 80 columns
and 24 rows are enough. A natgate that is restarted is found again.")]
    Top(TopArgs),
    /// Tell what would become of a flow, and why: rule, pool, public endpoint, limits, way and MTU
    #[command(after_long_help = "\
Example:
  natgate explain --from 10.244.1.7 --to 192.0.2.80:443
  natgate explain --from 10.244.1.7:5353 --to 192.0.2.53:53/udp --json
  natgate explain --from 198.51.100.1 --to 203.0.113.10:443
  natgate explain --from 10.244.1.7 --to 192.0.2.80:443 --vni 7

Asks the running gateway and changes nothing: no session is opened, no port
taken. What depends on the moment of a packet's arrival (overload, rates of
ICMP errors) is left out.")]
    Explain(ExplainArgs),
    /// Write chosen packets into a file for Wireshark, before and after translation, with what became of them
    #[command(after_long_help = "\
Example:
  natgate capture -w all.pcapng --from 10.244.1.7 --count 100
  natgate capture -w drops.pcapng --drops
  natgate capture -w - --drops --seconds 10 \\
    | tshark -r - -T fields -e frame.comment

A capture ends by itself: after --count packets, or --seconds. What does not
fit its bounds is missed, counted and told. Packets that the steering program
drops or leaves to the kernel are not in it.")]
    Capture(CaptureArgs),
    /// Read the configuration of the running gateway again, and bring it into force
    #[command(after_long_help = "\
Example:
  natgate reload
  natgate reload --json

The files and flags that `natgate run` was started with are read again and
checked as a whole; a mistake in them changes nothing (exit status 2). Sessions
keep their address and port. SIGHUP does the same, and so does a change of the
files by itself.")]
    Reload(ClientArgs),
    /// Change settings of the running gateway, until they are reset or it ends
    #[command(after_long_help = "\
Example:
  natgate set pools.default.timers.udp 120
  natgate set log natgate=debug,warn icmpErrors.rate 200
  natgate set pools.default.quota.newPerSecond none

Keys are the names of the objects' fields; `natgate get` lists those that can
change at run time. All values are checked as if they were written in the
objects, together: a mistake changes nothing (exit status 2). `none` takes a
limit away. What is set stays set when the configuration is read again, and is
shown by `natgate status`.")]
    Set(SetArgs),
    /// Show what can be set at run time, and what is
    #[command(after_long_help = "\
Example:
  natgate get
  natgate get pools.default.timers.udp
  natgate get pools.default

KEY is a whole key, or the beginning of some.")]
    Get(GetArgs),
    /// Take back what was set at run time: what is written counts again
    #[command(after_long_help = "\
Example:
  natgate reset pools.default.timers.udp
  natgate reset --all")]
    Reset(ResetArgs),
    /// Open no new sessions any more: empty the gateway, and show what remains
    #[command(after_long_help = "\
Example:
  natgate drain
  natgate drain --wait --timeout 600 && systemctl stop natgate

Established sessions go on, and end when they do. New flows are dropped as
`draining`, and their senders told as the pool says of exhaustion. /readyz
answers 503, so that load balancers and Kubernetes look elsewhere. `natgate
undrain`, or a restart, ends it.")]
    Drain(DrainArgs),
    /// Open new sessions again
    #[command(after_long_help = "Example:\n  natgate undrain")]
    Undrain(ClientArgs),
    /// Print the JSON schema of the objects, for editors and pipelines
    #[command(after_long_help = "\
Example:
  natgate schema > natgate.schema.json

In a YAML file, for editors that know the YAML language server:
  # yaml-language-server: $schema=/usr/share/natgate/natgate.schema.json

The schema knows one object at a time; what objects are to each other only
`natgate check` knows.")]
    Schema,
    /// Print the completions of a shell
    #[command(after_long_help = "\
Example:
  natgate completions bash > /etc/bash_completion.d/natgate")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    #[command(
        hide = true,
        after_long_help = "Example:\n  natgate manual /usr/local/share/man/man1"
    )]
    Manual {
        /// The directory; it is made if it is not there
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Remove steering programs that a stopped or crashed natgate left on interfaces
    #[command(after_long_help = "\
Example:
  natgate detach eth0 eth1
  natgate detach --all

From then on the kernel gets the pods' traffic again. Interfaces of a running
natgate are refused.")]
    Detach(DetachArgs),
}

/// What makes up a gateway: flags of `run` and `check`. Values are text here; configuration
/// validates them together with the objects, so that all mistakes show at once.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct GatewayArgs {
    /// File or directory of objects (YAML or JSON), instead of --pool, --from and --exempt
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<String>,
    /// Interface on which pod traffic arrives; repeatable. The same as --external: one-armed
    #[arg(long, value_name = "IF")]
    pub(crate) internal: Vec<String>,
    /// Interface through which the outside is reached; repeatable
    #[arg(long, value_name = "IF")]
    pub(crate) external: Vec<String>,
    /// Public addresses: A.B.C.D, A.B.C.D-A.B.C.E or A.B.C.D/N; repeatable
    #[arg(long, value_name = "SPEC", value_delimiter = ',')]
    pub(crate) pool: Vec<String>,
    /// Prefix of pods whose traffic is translated; repeatable
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) from: Vec<String>,
    /// Destinations towards which traffic stays untranslated; repeatable
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) exempt: Vec<String>,
    /// Workers, 1 to 64 [default: as many as there are cores and queues]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) workers: Option<String>,
    /// Queues to use of every interface, 1 to 64 [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) queues: Option<String>,
    /// How to exchange packets with the driver [default: auto]
    #[arg(long, value_name = "MODE", value_parser = Words(|| vec!["auto", "zerocopy", "copy", "generic"]))]
    pub(crate) mode: Option<String>,
    /// Poll the driver from the workers instead of waiting for interrupts
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// Serve no VXLAN device but those named with --internal
    #[arg(long)]
    pub(crate) no_tunnels: bool,
    /// Settings of NICs that bring packets to the worker that needs them: print shows the ethtool commands, apply runs
    /// them, and takes back at the end [default: print]
    #[arg(long, value_name = "HOW", value_parser = Words(|| vec!["off", "print", "apply"]))]
    pub(crate) receive_steering: Option<String>,
    /// Stats socket [default: /run/natgate.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<String>,
    /// Directory of the block journal and of the records of `who`, one for each gateway [default: /var/lib/natgate]
    #[arg(long, value_name = "PATH")]
    pub(crate) state_dir: Option<String>,
    /// File through which sessions survive a restart, on a tmpfs; or none [default: beside the stats socket]
    #[arg(long, value_name = "PATH")]
    pub(crate) state_file: Option<String>,
    /// Serve /metrics, /healthz and /readyz over TCP here [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<String>,
    /// What to log, such as info or natgate=debug,warn [default: info]
    #[arg(
        long, value_name = "FILTER", hide_possible_values = true,
        value_parser = Words(|| vec!["error", "warn", "info", "debug", "trace"])
    )]
    pub(crate) log: Option<String>,
    /// Form of the log [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = Words(|| vec!["text", "json"]))]
    pub(crate) log_format: Option<String>,
    /// What becomes of pod traffic after a clean stop [default: block]
    #[arg(long, value_name = "WHAT", value_parser = Words(|| vec!["block", "pass"]))]
    pub(crate) on_exit: Option<String>,
    /// Most sessions, all workers together [default: 1048576]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) sessions: Option<String>,
    /// At SIGTERM, open no new sessions and wait so many seconds for the others to end [default: 0]
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) grace: Option<String>,
    /// Lower the segment size that TCP connections announce: auto (to what their ways carry), off, or to
    /// so many bytes [default: auto]
    #[arg(
        long, value_name = "HOW", allow_hyphen_values = true,
        value_parser = Words(|| vec!["auto", "off"]), hide_possible_values = true
    )]
    pub(crate) mss_clamp: Option<String>,
    /// System calls that natgate does not need: refused, only logged by the kernel, or not filtered
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub(crate) seccomp: Seccomp,
}

/// What becomes of system calls that natgate does not need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Seccomp {
    /// They fail
    #[default]
    Enforce,
    /// They work, and the kernel logs them
    Log,
    /// There is no filter
    Off,
}

/// Flags of `check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The gateway.
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
