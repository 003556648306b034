//! `natgate-scorecard`: makes and checks `docs/rfc-compliance.md`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use tools::scorecard;

/// Says which requirement of which RFC is met, by which code, and which test shows it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Root of the project.
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Writes docs/rfc-compliance.md.
    Generate,
    /// Fails if a mark is wrong, a requirement lacks a test, or the document is out of date.
    Check {
        /// Let requirements and bugs without a test pass.
        #[arg(long)]
        allow_unproven: bool,
    },
}

fn main() -> ExitCode {
    tools::exit(run())
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    let card = match cli.command {
        Command::Generate => scorecard::generate(&cli.root)?,
        Command::Check { allow_unproven } => scorecard::check(&cli.root, allow_unproven)?,
    };
    println!("{}", card.summary());
    for problem in &card.problems {
        eprintln!("error: {problem}");
    }
    let count = card.problems.len();
    ensure!(
        count == 0,
        "error: scorecard ({}): {count} things are wrong; see above",
        cli.root.display()
    );
    Ok(())
}
