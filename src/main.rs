//! natgate: userspace egress NAT gateway on `AF_XDP`.

#![forbid(unsafe_code)]

mod api;
mod check;
mod cli;
mod config;
mod detach;
mod mirror;
mod run;
mod view;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use view::{Filter, What};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&args),
        Command::Detach(args) => detach::detach(&args),
        other => look(other),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Shows what a running natgate says.
fn look(command: Command) -> anyhow::Result<()> {
    let (client, what) = match command {
        Command::Status(client) => (client, What::Status),
        Command::Pools(client) => (client, What::Pools),
        Command::Workers(client) => (client, What::Workers),
        Command::Interfaces(client) => (client, What::Interfaces),
        Command::Drops(args) => (args.client, What::Drops { all: args.all }),
        Command::Subscribers(args) => {
            let address = args.address.map(|address| address.to_string());
            let filter =
                Filter { address, pool: args.pool, limit: args.limit, ..Filter::default() };
            (args.client, What::Subscribers(filter))
        }
        Command::Sessions(args) => {
            let filter = Filter {
                address: args.address.map(|address| address.to_string()),
                pool: args.pool,
                protocol: args.protocol.map(|protocol| protocol.name().to_owned()),
                state: args.state,
                limit: args.limit,
            };
            (args.client, What::Sessions(filter))
        }
        Command::Run(_) | Command::Check(_) | Command::Detach(_) => return Ok(()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(view::show(&client.socket, &what, client.json))?)
}

/// Prints what failed; exit status 2 for an invalid configuration, 1 for everything else.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(errors) = error.downcast_ref::<config::ConfigErrors>() {
        eprintln!("{errors}");
        return ExitCode::from(2);
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
