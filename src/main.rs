//! natgate: userspace egress NAT gateway on `AF_XDP`.

#![forbid(unsafe_code)]

mod api;
mod capture;
mod check;
mod cli;
mod config;
mod detach;
mod events;
mod explain;
mod generate;
mod mirror;
mod receive;
#[cfg(test)]
mod reference;
mod run;
#[cfg(test)]
mod screens;
mod top;
mod usage;
mod view;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use cli::{ClientArgs, Command, DrainArgs, EventsArgs, GetArgs, ResetArgs, SetArgs, WhoArgs};
use usage::WrongUsage;
use view::{Filter, ViewError, What, Which};

fn main() -> ExitCode {
    let outcome = match usage::parse() {
        Ok(cli) => done(cli.command),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Does what was typed.
fn done(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check(args) => unless_reader_left(check::check(&args)),
        Command::Run(args) => run::run(&args),
        Command::Detach(args) => detach::detach(&args),
        Command::Schema => {
            say(&format!("{:#}\n", config::json_schema()));
            Ok(())
        }
        Command::Completions { shell } => {
            say(&generate::completions(shell));
            Ok(())
        }
        Command::Manual { directory } => generate::manual(&directory),
        Command::Reload(client) => reload(&client),
        Command::Drain(args) => drain(&args),
        Command::Undrain(client) => undrain(&client),
        Command::Set(args) => set(&args),
        Command::Get(args) => get(&args),
        Command::Reset(args) => reset(args),
        Command::Explain(args) => explain(&args),
        Command::Capture(args) => capture(args),
        Command::Top(args) => top(&args),
        Command::Events(args) => events(&args),
        Command::Who(args) => who(&args),
        other => look(other),
    }
}

/// Shows what a running natgate says.
fn look(command: Command) -> anyhow::Result<()> {
    let (view, what) = match command {
        Command::Status(view) => (view, What::Status),
        Command::Pools(view) => (view, What::Pools),
        Command::Workers(view) => (view, What::Workers),
        Command::Interfaces(view) => (view, What::Interfaces),
        Command::Drops(args) => (args.view, What::Drops { all: args.all }),
        Command::Subscribers(args) => {
            let address = args.address.map(|address| address.to_string());
            let filter =
                Filter { address, pool: args.pool, limit: args.limit, ..Filter::default() };
            (args.view, What::Subscribers(filter))
        }
        Command::Sessions(args) => {
            let filter = Filter {
                address: args.address.map(|address| address.to_string()),
                pool: args.pool,
                protocol: args.protocol,
                state: args.state,
                limit: args.limit,
            };
            (args.view, What::Sessions(filter))
        }
        Command::Run(_)
        | Command::Check(_)
        | Command::Reload(_)
        | Command::Drain(_)
        | Command::Undrain(_)
        | Command::Set(_)
        | Command::Get(_)
        | Command::Reset(_)
        | Command::Explain(_)
        | Command::Capture(_)
        | Command::Top(_)
        | Command::Events(_)
        | Command::Who(_)
        | Command::Detach(_)
        | Command::Schema
        | Command::Completions { .. }
        | Command::Manual { .. } => return Ok(()),
    };
    let ClientArgs { socket, json } = view.client;
    let shown = async {
        match view.watch.map(Duration::from_secs_f64) {
            Some(interval) => view::watch(&socket, &what, json, interval).await,
            None => view::show(&socket, &what, json).await,
        }
    };
    Ok(runtime()?.block_on(shown)?)
}

/// Tells what would become of a flow.
fn explain(args: &cli::ExplainArgs) -> anyhow::Result<()> {
    let question = [("from", Some(args.from.clone())), ("to", Some(args.to.clone()))];
    let vni = ("vni", args.vni.map(|vni| vni.to_string()));
    let asked = question.into_iter().chain([vni]);
    let query: Vec<(&str, String)> = asked.filter_map(|(name, it)| Some((name, it?))).collect();
    let (socket, json) = (&args.client.socket, args.client.json);
    Ok(runtime()?.block_on(view::explain(socket, &query, json))?)
}

/// The full-screen view.
fn top(args: &cli::TopArgs) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    anyhow::ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "cannot draw (standard output): it is no terminal; use 'natgate status --watch', or --json of the other commands"
    );
    Ok(runtime()?.block_on(top::top(&args.socket, Duration::from_secs_f64(args.interval)))?)
}

/// Captures packets.
fn capture(args: cli::CaptureArgs) -> anyhow::Result<()> {
    let text = |number: Option<u64>| number.map(|number| number.to_string());
    let fields = [
        ("drops", args.drops),
        ("from", args.from),
        ("to", args.to),
        ("count", text(args.count)),
        ("seconds", text(args.seconds)),
        ("snap", text(args.snap)),
        ("rate", text(args.rate)),
    ];
    let query: Vec<(&str, String)> =
        fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let target = capture::Target::new(&args.write);
    Ok(runtime()?.block_on(capture::capture(&args.socket, &query, &target))?)
}

/// Has a running natgate read its configuration again.
fn reload(client: &ClientArgs) -> anyhow::Result<()> {
    Ok(runtime()?.block_on(view::reload(&client.socket, client.json))?)
}

/// Empties the gateway.
fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let ClientArgs { socket, json } = &args.client;
    let patience = args.timeout.map_or(Duration::MAX, Duration::from_secs);
    let wait = args.wait.then_some(patience);
    Ok(runtime()?.block_on(view::drain::begin(socket, wait, *json))?)
}

/// Fills it again.
fn undrain(client: &ClientArgs) -> anyhow::Result<()> {
    Ok(runtime()?.block_on(view::drain::end(&client.socket, client.json))?)
}

/// Sets something over what is written.
fn set(args: &SetArgs) -> anyhow::Result<()> {
    let (pairs, rest) = args.pairs.as_chunks();
    if let [key] = rest {
        let why =
            format!("missing value ({key}): every key needs one; write natgate set {key} VALUE");
        return Err(WrongUsage(why).into());
    }
    let changes = pairs.iter().map(|[key, value]| (key.clone(), Some(value.clone())));
    let changes = changes.collect();
    let ClientArgs { socket, json } = &args.client;
    Ok(runtime()?.block_on(view::settings::change(socket, &changes, *json))?)
}

/// Takes back what was set.
fn reset(args: ResetArgs) -> anyhow::Result<()> {
    let ClientArgs { socket, json } = args.client;
    let changes = args.keys.into_iter().map(|key| (key, None)).collect();
    let runtime = runtime()?;
    if args.all {
        Ok(runtime.block_on(view::settings::reset(&socket, json))?)
    } else {
        Ok(runtime.block_on(view::settings::change(&socket, &changes, json))?)
    }
}

/// Shows what can be set, and what is.
fn get(args: &GetArgs) -> anyhow::Result<()> {
    let ClientArgs { socket, json } = &args.client;
    Ok(runtime()?.block_on(view::settings::show(socket, args.key.as_deref(), *json))?)
}

/// Shows what has happened, and what happens.
fn events(args: &EventsArgs) -> anyhow::Result<()> {
    let which = Which { since: args.since, last: args.last, follow: args.follow };
    Ok(runtime()?.block_on(view::events(&args.client.socket, which, args.client.json))?)
}

/// Shows who has, or had, a public endpoint.
fn who(args: &WhoArgs) -> anyhow::Result<()> {
    let (socket, json) = (&args.client.socket, args.client.json);
    let at = args.at.as_deref();
    Ok(runtime()?.block_on(view::who(socket, &args.endpoint, at, json))?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Writes to standard output. That nobody reads it, or nobody any more, is no reason to fail.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes one error to standard error; if that is closed, there is nobody to tell.
pub(crate) fn complain(error: &anyhow::Error) {
    let _ = writeln!(io::stderr().lock(), "error: {}", told(error));
}

/// The error and its causes, but for those that it has told itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A reader of standard output that goes away early (`| head`) has seen what it wanted.
fn unless_reader_left(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    let Err(error) = outcome else { return Ok(()) };
    let text = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    if text.or(json) == Some(io::ErrorKind::BrokenPipe) { Ok(()) } else { Err(error) }
}

/// Prints what failed; exit status 2 for wrong usage and an invalid configuration, 1 for everything else.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(errors) = error.downcast_ref::<config::ConfigErrors>() {
        let _ = writeln!(io::stderr().lock(), "{errors}");
        return ExitCode::from(2);
    }
    let wrong = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ViewError::Invalid(lines)), _) | (_, Some(WrongUsage(lines))) => Some(lines),
        _ => None,
    };
    if let Some(lines) = wrong {
        for line in lines.lines() {
            let _ = writeln!(io::stderr().lock(), "error: {line}");
        }
        return ExitCode::from(2);
    }
    complain(error);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let cause = || io::Error::from_raw_os_error(98);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9464));
        let error = api::ServeError::Metrics { address, source: cause() };
        let text = told(&error.into());
        assert_eq!(text.matches("Address already in use").count(), 1, "{text}");
        assert!(text.ends_with("use another --metrics"), "{text}");
        let plain = anyhow::Error::from(cause()).context("cannot write (/x)");
        assert_eq!(told(&plain), "cannot write (/x): Address already in use (os error 98)");
    }

    #[test]
    fn a_reader_that_leaves_early_is_no_error() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(unless_reader_left(Err(broken().into())).is_ok());
        assert!(unless_reader_left(Err(serde_json::Error::io(broken()).into())).is_ok());
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(unless_reader_left(Err(full.into())).is_err());
        assert!(unless_reader_left(Err(anyhow::anyhow!("anything else"))).is_err());
    }
}
