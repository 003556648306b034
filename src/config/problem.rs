//! What is wrong with a configuration, where, and what to do about it?

use std::fmt;
use std::sync::Arc;

use super::ask::Ask;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag of the command line, such as `--pool`.
    Flag(&'static str),
    /// What was set at run time, by its key.
    Setting(Arc<str>),
    /// What was to be set back, by its key.
    Reset(Arc<str>),
    /// A file or a directory as a whole.
    Path(Arc<str>),
    /// A place in a file; line and column count from 1.
    File {
        /// The file's name as the user would write it.
        file: Arc<str>,
        /// Line.
        line: u32,
        /// Column, in characters.
        column: u32,
    },
}

impl Origin {
    /// Flags first, then files by name, line and column.
    fn order(&self) -> (u8, &str, u32, u32) {
        match self {
            Self::Flag(_) => (0, "", 0, 0),
            Self::Setting(key) | Self::Reset(key) => (0, key, 0, 0),
            Self::Path(path) => (1, path, 0, 0),
            Self::File { file, line, column } => (1, file, *line, *column),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => f.write_str(name),
            Self::Setting(key) => write!(f, "natgate set {key}"),
            Self::Reset(key) => write!(f, "natgate reset {key}"),
            Self::Path(path) => f.write_str(path),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// An origin and the field that was read there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the value is written.
    pub(crate) origin: Origin,
    /// Its path in the object, such as `spec.timers.udp`; empty for the whole.
    pub(crate) field: String,
}

impl Place {
    /// The place of something as a whole.
    pub(crate) fn of(origin: Origin) -> Self {
        Self { origin, field: String::new() }
    }

    /// A flag.
    pub(crate) fn flag(name: &'static str) -> Self {
        Self::of(Origin::Flag(name))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Flag(_) | Origin::Setting(_) | Origin::Reset(_) => write!(f, "{}", self.origin),
            _ if self.field.is_empty() => write!(f, "{}", self.origin),
            _ => write!(f, "{}: {}", self.origin, self.field),
        }
    }
}

/// One mistake, or one thing to know: `<what> (<where>): <why>; <what to do>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The kind of problem, in a few words.
    pub(crate) what: String,
    /// Where it is.
    pub(crate) place: Place,
    /// Why it is one.
    pub(crate) why: String,
    /// What to do.
    pub(crate) remedy: String,
}

impl fmt::Display for Problem {
    /// One line, whatever keys and values quoted from a file hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = format!("{} ({}): {}; {}", self.what, self.place, self.why, self.remedy);
        line.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }
        })
    }
}

/// Why a configuration is refused: every mistake found, at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ConfigErrors(pub(crate) Vec<Problem>);

impl fmt::Display for ConfigErrors {
    /// One line for each mistake, beginning with `error: `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}error: {problem}")?;
        }
        Ok(())
    }
}

/// Collects problems while reading goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// What the readers asked of which field, if somebody wants to know.
    asked: Option<Vec<(String, Ask)>>,
}

impl Problems {
    /// Problems that note what the readers ask, too.
    pub(super) fn listening() -> Self {
        Self { asked: Some(Vec::new()), ..Self::default() }
    }

    /// Notes what a reader asks of the field at `path`.
    pub(super) fn asked(&mut self, path: &str, ask: impl FnOnce() -> Ask) {
        if let Some(asked) = &mut self.asked {
            asked.push((path.to_owned(), ask()));
        }
    }

    /// What the readers asked.
    pub(super) fn into_asked(self) -> Vec<(String, Ask)> {
        self.asked.unwrap_or_default()
    }

    /// Notes a mistake.
    pub(super) fn error(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let problem = problem(place, what.into(), why.into(), remedy.into());
        // A flag may be read twice, for two objects that it describes.
        let is_flag = matches!(place.origin, Origin::Flag(_));
        if !(is_flag && self.errors.contains(&problem)) {
            self.errors.push(problem);
        }
    }

    /// Notes something that is allowed, but has a price.
    pub(super) fn warn(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(problem(place, what.into(), why.into(), remedy.into()));
    }

    /// Whether no mistake was found so far.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// All warnings, or all mistakes if there is one; in the order of the files.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, ConfigErrors> {
        let sort = |list: &mut Vec<Problem>| {
            list.sort_by(|a, b| a.place.origin.order().cmp(&b.place.origin.order()));
        };
        sort(&mut self.errors);
        sort(&mut self.warnings);
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(ConfigErrors(self.errors)) }
    }
}

fn problem(place: &Place, what: String, why: String, remedy: String) -> Problem {
    Problem { what, place: place.clone(), why, remedy }
}
