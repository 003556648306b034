//! What is wrong with what was typed? Said as everything else is: `<what> (<where>): <why>; <what to do>`.

#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod values;

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::config::typing_mistakes;
use crate::view::terminal_width;

/// Something that was typed is wrong, whatever happens: exit status 2. A line for each mistake.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// Reads the command line. Help, and the version, are printed, and end the process.
///
/// # Errors
/// What is wrong with it, as far as one sees without asking natgate or a configuration.
pub(crate) fn parse() -> Result<Cli, WrongUsage> {
    match read(std::env::args_os()) {
        Ok(cli) => Ok(cli),
        // That is no error: it is printed as it is.
        Err(error) if is_help(error.kind()) => error.exit(),
        Err(error) => {
            let first = std::env::args_os().nth(1).and_then(|word| word.into_string().ok());
            Err(WrongUsage(told(&error, first.as_deref()).join("\n")))
        }
    }
}

fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// All that can be typed, with help that fits the terminal.
fn command() -> Command {
    Cli::command().term_width(terminal_width())
}

const fn is_help(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// What `error` says, a line for each mistake; `first` is the first argument, which may be a command.
fn told(error: &clap::Error, first: Option<&str>) -> Vec<String> {
    let all = Cli::command();
    let command = first.and_then(|name| all.find_subcommand(name));
    let name =
        command.map_or_else(|| "natgate".to_owned(), |it| format!("natgate {}", it.get_name()));
    let example = command.map(examples).unwrap_or_default().into_iter().next();
    let example = example
        .map_or_else(|| format!("'{name} --help' tells more"), |it| format!("for example: {it}"));
    let text = |kind| texts(error.get(kind)).into_iter().next().unwrap_or_default();
    let argument = bare(&text(ContextKind::InvalidArg));
    let value = text(ContextKind::InvalidValue);
    let line = match error.kind() {
        ErrorKind::UnknownArgument => {
            let (what, kind) = if argument.starts_with('-') {
                ("unknown flag", "flag")
            } else {
                ("unexpected argument", "argument")
            };
            let remedy = nearest(error, &argument, ContextKind::SuggestedArg, &name);
            format!("{what} ({argument}): '{name}' takes no such {kind}; {remedy}")
        }
        ErrorKind::InvalidSubcommand => {
            let typed = text(ContextKind::InvalidSubcommand);
            let remedy = nearest(error, &typed, ContextKind::SuggestedSubcommand, "natgate");
            format!("unknown command ({typed}): natgate has no such command; {remedy}")
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            let whole = text(ContextKind::InvalidArg).replace(['<', '>'], "");
            format!(
                "missing value ({argument}): it needs one; write {whole}, or see '{name} --help'"
            )
        }
        ErrorKind::InvalidValue => {
            let values = either(&texts(error.get(ContextKind::ValidValue)));
            format!(
                "unknown value ({argument}): there is no such value as {value:?}; write {values}"
            )
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            format!("bad value {value:?} ({argument}): {why}")
        }
        ErrorKind::MissingRequiredArgument => return missing(error, command, &name, &example),
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("missing value ({argument}): it needs more of them; {example}")
        }
        ErrorKind::TooManyValues => {
            format!("unexpected value {value:?} ({argument}): it takes fewer; {example}")
        }
        ErrorKind::ArgumentConflict => conflict(error, &argument),
        ErrorKind::InvalidUtf8 => {
            format!("bad argument ({name}): it is not UTF-8; type it as UTF-8")
        }
        other => format!("wrong usage ({name}): {other}; {example}"),
    };
    vec![line]
}

/// What may be meant by what was `typed`, or where all is listed.
fn nearest(error: &clap::Error, typed: &str, kind: ContextKind, name: &str) -> String {
    let mut near = texts(error.get(kind));
    near.retain(|it| is_like(typed, &bare(it)));
    match near.as_slice() {
        [] => format!("'{name} --help' lists what there is"),
        near => format!("did you mean {}?", either(near)),
    }
}

/// Whether `word` is what was typed but for few typing mistakes, or begins so.
fn is_like(typed: &str, word: &str) -> bool {
    let (typed, word) = (typed.trim_start_matches('-'), word.trim_start_matches('-'));
    word.starts_with(typed) || typing_mistakes(typed, word).is_some()
}

/// What is not there and must be, a line each, with an example that has it if there is one.
fn missing(
    error: &clap::Error,
    command: Option<&Command>,
    name: &str,
    example: &str,
) -> Vec<String> {
    let examples = command.map(examples).unwrap_or_default();
    let line = |argument: String| {
        let (what, argument) = if argument.starts_with('-') {
            ("flag", bare(&argument))
        } else {
            ("argument", bare(&argument))
        };
        let having = examples.iter().find(|it| it.split(' ').any(|word| word == argument));
        // What comes after the command is another one.
        let having = having.and_then(|it| it.split(" && ").next());
        let example = having.map_or_else(|| example.to_owned(), |it| format!("for example: {it}"));
        format!("missing {what} ({argument}): '{name}' needs it; {example}")
    };
    texts(error.get(ContextKind::InvalidArg)).into_iter().map(line).collect()
}

fn conflict(error: &clap::Error, argument: &str) -> String {
    let others: Vec<String> =
        texts(error.get(ContextKind::PriorArg)).iter().map(|other| bare(other)).collect();
    if others.iter().all(|other| other == argument) {
        return format!(
            "contradictory flags ({argument}): it is given more than once; give it once"
        );
    }
    let others = either(&others);
    format!(
        "contradictory flags ({argument}): it can't be used together with {others}; leave out one of them"
    )
}

/// The texts of a part of an error.
fn texts(value: Option<&ContextValue>) -> Vec<String> {
    match value {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// `--workers <N>` as `--workers`, and `<IF>...` as `IF`.
fn bare(argument: &str) -> String {
    if argument.starts_with('-') {
        return argument.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    }
    let name = argument.trim_end_matches("...");
    let within = |open, close| name.strip_prefix(open)?.strip_suffix(close);
    within('<', '>').or_else(|| within('[', ']')).unwrap_or(name).to_owned()
}

/// The examples in the help of a command.
fn examples(command: &Command) -> Vec<String> {
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let mut lines = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
    let mut examples = Vec::new();
    while let Some(line) = lines.next().filter(|line| line.starts_with(' ')) {
        let mut example = line.trim().to_owned();
        while let Some(begun) = example.strip_suffix('\\') {
            example = format!("{}{}", begun, lines.next().unwrap_or_default().trim());
        }
        examples.push(example);
    }
    examples
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn either<T: AsRef<str>>(words: &[T]) -> String {
    match words {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} or {}", first.join(", "), last.as_ref())
        }
    }
}
