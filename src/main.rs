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

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&args),
        Command::Detach(args) => detach::detach(&args),
        other => Err(anyhow::anyhow!("{other:?} is not wired yet")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
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
