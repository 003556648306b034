//! What the sources say: which test proves what, and which code cites which requirement.
//!
//! ```text
//! // Proves: 4787-REQ-9, 4787-REQ-9a      directly above a test, among its attributes or before them
//! // Museum: C15                          the same for the bugs of others
//! // RFC 4787 REQ-9a                      in the product's code; also `RFC 7857 section 2.2`
//! 4787-REQ-9a                             anywhere in the product's code
//! ```
//!
//! Sources are read line by line, as rustfmt leaves them.

use std::fmt;

/// A test, as the scorecard names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// Path from the root of the project.
    pub file: String,
    /// Name of the function.
    pub name: String,
}

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Requirement or bug, and the test that shows it.
    pub(super) proofs: Vec<(String, Test)>,
    /// Citations, and the lines that they are in.
    pub(super) citations: Vec<(Citation, usize)>,
    /// What is wrong with the marks.
    pub(super) problems: Vec<String>,
}

/// What a line of code names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Citation {
    /// One requirement, by its id.
    Id(String),
    /// A requirement with all its parts: `RFC 5508 REQ-10a`.
    Numbered(String),
    /// What a section demands, if it demands anything: `RFC 7857 section 2.2`.
    Section(String),
}

/// Where the product's own code lies; elsewhere are tests and the programs around them.
const PRODUCT: [&str; 3] = ["src/", "conntrack/src/", "dataplane/src/"];

/// Marks that wait for the test below them.
#[derive(Default)]
struct Pending {
    ids: Vec<(String, usize)>,
    attributes: Vec<String>,
    /// An attribute goes on in the next line.
    open: bool,
}

/// Reads one file.
pub(super) fn marks(file: &str, text: &str) -> Marks {
    let mut marks = Marks::default();
    let mut pending = Pending::default();
    let mut product = PRODUCT.iter().any(|dir| file.starts_with(dir))
        && !file.split('/').any(|part| part == "tests" || part == "tests.rs");
    let mut last = "";
    for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        read_line(file, at, line, &mut pending, &mut marks);
        // What follows `#[cfg(test)] mod … {` are tests, to the end of the file.
        product &= !(last == "#[cfg(test)]" && line.starts_with("mod ") && line.ends_with('{'));
        if product {
            marks.citations.extend(citations(line).into_iter().map(|cited| (cited, at)));
        }
        last = line;
    }
    give_up(file, &mut pending, &mut marks);
    marks
}

fn read_line(file: &str, at: usize, line: &str, pending: &mut Pending, marks: &mut Marks) {
    let line = line.trim();
    if pending.open || line.starts_with("#[") {
        if !pending.open {
            pending.attributes.push(line.to_owned());
        }
        pending.open = !line.ends_with(']') && !line.contains("] //");
    } else if let Some(comment) = line.strip_prefix("//") {
        let comment = comment.trim_start_matches('/').trim();
        match mark(comment) {
            Ok(ids) => pending.ids.extend(ids.into_iter().map(|id| (id, at))),
            Err(why) => marks.problems.push(format!("mark ({file}:{at}): {why}")),
        }
    } else if let Some(name) = function(line) {
        let is = |word: &str| pending.attributes.iter().any(|attribute| attribute.contains(word));
        let test = is("#[test]") || is("#[tokio::test");
        if test && !is("#[ignore") {
            let test = Test { file: file.to_owned(), name: name.to_owned() };
            let proofs = pending.ids.drain(..).map(|(id, _)| (id, test.clone()));
            marks.proofs.extend(proofs);
        } else {
            for (id, at) in pending.ids.drain(..) {
                marks.problems.push(format!(
                    "mark ({file}:{at}): {name} is no test that runs; {id} is not proven"
                ));
            }
        }
        pending.attributes.clear();
    } else {
        give_up(file, pending, marks);
    }
}

/// Marks that nothing below them takes.
fn give_up(file: &str, pending: &mut Pending, marks: &mut Marks) {
    for (id, at) in pending.ids.drain(..) {
        marks
            .problems
            .push(format!("mark ({file}:{at}): {id} does not stand directly above a test"));
    }
    pending.attributes.clear();
}

/// The ids of a comment that is a mark; none if it is another comment.
fn mark(comment: &str) -> Result<Vec<String>, String> {
    let Some((word, list)) = comment.split_once(':') else { return Ok(Vec::new()) };
    if !word.eq_ignore_ascii_case("proves") && !word.eq_ignore_ascii_case("museum") {
        return Ok(Vec::new());
    }
    let bug = |id: &str| {
        id.strip_prefix('C').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let fits = |id: &str| match word {
        "Proves" => is_id(id),
        "Museum" => bug(id),
        _ => false,
    };
    let ids: Vec<&str> = list.split(',').map(str::trim).collect();
    match ids.iter().find(|id| !fits(id)) {
        None => Ok(ids.into_iter().map(str::to_owned).collect()),
        Some(id) => Err(format!(
            "{word}: {id:?} is no id; write `// Proves: 4787-REQ-9, 4787-REQ-9a` or `// Museum: C15`"
        )),
    }
}

/// The name of the function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let word = words.find(|word| !matches!(*word, "pub" | "pub(super)" | "async" | "const"))?;
    if word != "fn" {
        return None;
    }
    words.next()?.split(['(', '<']).next()
}

/// Whether this could be the id of a requirement: `4787-REQ-9a`, `7857-S2.1b`.
fn is_id(word: &str) -> bool {
    let Some((rfc, rest)) = word.split_once('-') else { return false };
    let number = rest.strip_prefix("REQ-").or_else(|| rest.strip_prefix('S'));
    is_rfc(rfc) && number.is_some_and(is_number)
}

fn is_rfc(word: &str) -> bool {
    word.len() == 4 && word.bytes().all(|b| b.is_ascii_digit())
}

/// `9`, `9a`, `2.2b`, `10a.1`.
fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        })
}

/// Everything that a line of code cites.
fn citations(line: &str) -> Vec<Citation> {
    let word_ends = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    let mut cited: Vec<Citation> = line
        .split(word_ends)
        .map(|word| word.trim_matches(['.', '-']))
        .filter(|word| is_id(word))
        .map(|id| Citation::Id(id.to_owned()))
        .collect();
    let Some((_, comment)) = line.split_once("//") else { return cited };
    let mut rest = comment
        .split(word_ends)
        .map(|word| word.trim_matches(['.', '-']))
        .filter(|word| !word.is_empty())
        .peekable();
    while let Some(word) = rest.next() {
        let Some(rfc) = rest.next_if(|next| word == "RFC" && is_rfc(next)) else { continue };
        // `RFC 4787 REQ-9, REQ-9a and REQ-10`; `RFC 7857 section 2.2`; `RFC 1812 5.2.2, 5.3.7`.
        let mut after_and = true;
        while after_and {
            let in_section = rest.next_if(|word| matches!(*word, "section" | "sections")).is_some();
            let Some(next) = rest.peek() else { break };
            if let Some(number) = next.strip_prefix("REQ-").filter(|number| is_number(number)) {
                cited.push(Citation::Numbered(format!("{rfc}-REQ-{number}")));
            } else if is_number(next) && (in_section || next.contains('.')) {
                cited.push(Citation::Section(format!("{rfc}-S{next}")));
            } else {
                break;
            }
            rest.next();
            let list_goes_on = |word: &&str| {
                *word == "and"
                    || word.starts_with("REQ-")
                    || (is_number(word) && word.contains('.'))
            };
            after_and = rest.peek().is_some_and(list_goes_on);
            rest.next_if(|word| *word == "and");
        }
    }
    cited
}

impl Citation {
    /// Which of these ids it means.
    pub(super) fn matches<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let (Self::Id(base) | Self::Numbered(base) | Self::Section(base)) = self;
        let mut parts = Vec::new();
        for id in ids {
            let Some(rest) = id.strip_prefix(base.as_str()) else { continue };
            let part = match (self, rest.chars().next()) {
                (_, None) => return vec![id],
                (Self::Id(_), _) => false,
                (Self::Numbered(_), Some(next)) => next == '.' || next.is_ascii_lowercase(),
                // Behind a dot comes another section.
                (Self::Section(_), Some(next)) => next.is_ascii_lowercase(),
            };
            if part {
                parts.push(id);
            }
        }
        parts
    }

    /// Whether it names something of this RFC.
    pub(super) fn is_of(&self, rfc: &str) -> bool {
        let (Self::Id(name) | Self::Numbered(name) | Self::Section(name)) = self;
        name.split('-').next() == Some(rfc)
    }

    /// Whether it must mean something; sections also explain what no row demands.
    pub(super) fn is_binding(&self) -> bool {
        !matches!(self, Self::Section(_))
    }
}

impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Id(name) | Self::Numbered(name) | Self::Section(name)) = self;
        f.write_str(name)
    }
}
