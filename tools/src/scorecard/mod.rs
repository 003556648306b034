//! Which requirement is met, by which code, and which test shows it?
//!
//! `docs/rfc-requirements.tsv` says what is required, the marks in the sources say what is shown, and
//! `docs/rfc-compliance.md` is made from both. A requirement that should be met and has no test fails
//! the check unless `docs/rfc-unproven.tsv` gives the reason.

mod document;
mod requirement;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

pub use document::document;
pub use requirement::{Bug, Requirement, Verdict};
pub use source::Test;

/// What is required of a NAT.
pub const REQUIREMENTS: &str = "docs/rfc-requirements.tsv";
/// Bugs that others had.
pub const MUSEUM: &str = "docs/bug-museum.tsv";
/// What is not shown, and why.
pub const UNPROVEN: &str = "docs/rfc-unproven.tsv";
/// Where natgate and Linux's NAT differ; made by the suite `twin`.
pub const TWIN: &str = "docs/twin.md";
/// The document that is made of all this.
pub const DOCUMENT: &str = "docs/rfc-compliance.md";

/// Requirements and bugs with what the sources say about them.
pub struct Scorecard {
    /// Requirements in the order of their table.
    pub requirements: Vec<Requirement>,
    /// Bugs in the order of their table.
    pub bugs: Vec<Bug>,
    /// What is wrong with tables or marks.
    pub problems: Vec<String>,
    /// The table of the differences from Linux's NAT.
    pub twin: String,
    unproven: BTreeMap<String, String>,
    tests: BTreeMap<String, BTreeSet<Test>>,
    code: BTreeMap<String, BTreeSet<String>>,
    shown: BTreeSet<String>,
}

/// How well a requirement or a bug is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// Tests show it, or show everything that it consists of.
    Shown,
    /// It needs no test.
    NotAsked,
    /// It is admitted not to be met, or not to be shown.
    Admitted(&'a str),
    /// No test, and no reason given.
    Missing,
}

impl Scorecard {
    /// Joins the three tables (requirements, museum, unproven) and the sources (path, text).
    pub fn new<'a>(
        tables: [&str; 3],
        sources: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut problems = Vec::new();
        let [requirements, museum, unproven] = tables;
        let mut card = Self {
            requirements: requirement::requirements(REQUIREMENTS, requirements, &mut problems),
            bugs: requirement::bugs(MUSEUM, museum, &mut problems),
            unproven: requirement::unproven(UNPROVEN, unproven, &mut problems),
            problems,
            twin: String::new(),
            tests: BTreeMap::new(),
            code: BTreeMap::new(),
            shown: BTreeSet::new(),
        };
        for (file, text) in sources {
            card.add(file, text);
        }
        card.shown = card.shown_directly_or_through_others();
        card.check_reasons();
        card
    }

    /// Reads everything below the root of the project.
    pub fn read(root: &Path) -> Result<Self> {
        let table = |name: &str| {
            let path = root.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let tables = [table(REQUIREMENTS)?, table(MUSEUM)?, table(UNPROVEN)?];
        let mut sources = Vec::new();
        collect(root, "", &mut sources)?;
        ensure!(!sources.is_empty(), "error: the sources ({}): there are none", root.display());
        let [requirements, museum, unproven] = &tables;
        let twin = table(TWIN)?;
        let differences = twin.lines().skip_while(|line| !line.starts_with("| "));
        let differences = differences.take_while(|line| line.starts_with('|'));
        let card = Self::new(
            [requirements, museum, unproven],
            sources.iter().map(|(file, text)| (file.as_str(), text.as_str())),
        );
        Ok(Self { twin: differences.fold(String::new(), |all, line| all + line + "\n"), ..card })
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().map(|row| row.id.as_str())
    }

    fn knows(&self, id: &str) -> bool {
        self.ids().chain(self.bugs.iter().map(|bug| bug.id.as_str())).any(|known| known == id)
    }

    fn add(&mut self, file: &str, text: &str) {
        let marks = source::marks(file, text);
        self.problems.extend(marks.problems);
        for (id, test) in marks.proofs {
            if !self.knows(&id) {
                self.problems.push(format!("mark ({file}: {}): there is no {id}", test.name));
            }
            self.tests.entry(id).or_default().insert(test);
        }
        for (citation, line) in marks.citations {
            let ids: Vec<String> =
                citation.matches(self.ids()).into_iter().map(str::to_owned).collect();
            let rfc_is_listed = self.requirements.iter().any(|row| citation.is_of(row.rfc()));
            if ids.is_empty() && citation.is_binding() && rfc_is_listed {
                self.problems.push(format!("citation ({file}:{line}): there is no {citation}"));
            }
            for id in ids {
                self.code.entry(id).or_default().insert(file.to_owned());
            }
        }
    }

    /// A requirement that consists of others is shown when all of those are that natgate meets.
    fn shown_directly_or_through_others(&self) -> BTreeSet<String> {
        let mut shown: BTreeSet<String> = self.tests.keys().cloned().collect();
        loop {
            let is_shown = |row: &Requirement| {
                let means = |part: &str, id: &str| match part.strip_suffix('*') {
                    Some(prefix) => id.starts_with(prefix),
                    None => id == part,
                };
                let parts = |row: &Requirement, id: &str| row.through.iter().any(|p| means(p, id));
                let needed = self.requirements.iter().filter(|other| parts(row, &other.id));
                !row.through.is_empty()
                    && needed.filter(|r| r.verdict.needs_proof()).all(|r| shown.contains(&r.id))
            };
            let more: Vec<String> = self
                .requirements
                .iter()
                .filter(|row| !shown.contains(&row.id) && is_shown(row))
                .map(|row| row.id.clone())
                .collect();
            if more.is_empty() {
                return shown;
            }
            shown.extend(more);
        }
    }

    /// An admission must be about something that lacks a test and needs one.
    fn check_reasons(&mut self) {
        for id in self.unproven.keys() {
            let asked = self.requirements.iter().find(|row| row.id == *id);
            let why = if !self.knows(id) {
                "there is no such requirement"
            } else if self.shown.contains(id) {
                "a test shows it now; delete the row"
            } else if asked.is_some_and(|row| !row.verdict.needs_proof()) {
                "its verdict asks for no test; delete the row"
            } else {
                continue;
            };
            self.problems.push(format!("reason ({UNPROVEN}): {id}: {why}"));
        }
    }

    /// How well a requirement is answered.
    pub fn status(&self, row: &Requirement) -> Status<'_> {
        self.answer(&row.id, row.verdict.needs_proof())
    }

    /// How well a bug is answered.
    pub fn bug_status(&self, bug: &Bug) -> Status<'_> {
        self.answer(&bug.id, bug.impossible.is_empty())
    }

    fn answer(&self, id: &str, asked: bool) -> Status<'_> {
        if self.shown.contains(id) && asked {
            Status::Shown
        } else if !asked {
            Status::NotAsked
        } else if let Some(reason) = self.unproven.get(id) {
            Status::Admitted(reason)
        } else {
            Status::Missing
        }
    }

    /// Tests that carry the mark of this requirement or bug.
    pub fn tests(&self, id: &str) -> impl Iterator<Item = &Test> {
        self.tests.get(id).into_iter().flatten()
    }

    /// Files of the product that cite this requirement.
    pub fn code(&self, id: &str) -> impl Iterator<Item = &str> {
        self.code.get(id).into_iter().flatten().map(String::as_str)
    }

    /// Requirements and bugs that nothing shows and nothing excuses.
    pub fn missing(&self) -> Vec<&str> {
        let rows = self.requirements.iter().filter(|row| self.status(row) == Status::Missing);
        let bugs = self.bugs.iter().filter(|bug| self.bug_status(bug) == Status::Missing);
        rows.map(|row| row.id.as_str()).chain(bugs.map(|bug| bug.id.as_str())).collect()
    }

    /// The state of things in one line.
    pub fn summary(&self) -> String {
        let count = |status: fn(&Status<'_>) -> bool| {
            let rows = self.requirements.iter().filter(|row| status(&self.status(row))).count();
            (rows, self.bugs.iter().filter(|bug| status(&self.bug_status(bug))).count())
        };
        let shown = count(|status| *status == Status::Shown);
        let admitted = count(|status| matches!(status, Status::Admitted(_)));
        let missing = count(|status| *status == Status::Missing);
        let impossible = count(|status| *status == Status::NotAsked).1;
        format!(
            "requirements to meet: {} shown by tests, {} admitted, {} without a test; \
             bugs of others: {} shown absent, {impossible} impossible, {} admitted, {} without a test",
            shown.0, admitted.0, missing.0, shown.1, admitted.1, missing.1
        )
    }
}

/// Writes the document.
pub fn generate(root: &Path) -> Result<Scorecard> {
    let card = Scorecard::read(root)?;
    let path = root.join(DOCUMENT);
    fs::write(&path, document(&card)).with_context(|| format!("writing {}", path.display()))?;
    Ok(card)
}

/// Compares the document with the sources; everything that is wrong goes to the problems.
pub fn check(root: &Path, allow_unproven: bool) -> Result<Scorecard> {
    let mut card = Scorecard::read(root)?;
    let written = fs::read_to_string(root.join(DOCUMENT)).unwrap_or_default();
    if written != document(&card) {
        card.problems.push(format!(
            "document ({DOCUMENT}): it is not what the sources say; run `natgate-scorecard generate`"
        ));
    }
    if !allow_unproven {
        let missing =
            card.missing().into_iter().map(|id| format!("no test ({id}): nothing proves it"));
        let missing: Vec<String> = missing.collect();
        card.problems.extend(missing);
    }
    Ok(card)
}

/// All Rust sources below a directory, sorted, without hidden directories and build results.
fn collect(root: &Path, below: &str, sources: &mut Vec<(String, String)>) -> Result<()> {
    let dir = root.join(below);
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        names.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?));
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, kind) in names {
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if kind.is_dir() && !name.starts_with('.') && name != "target" {
            collect(root, &path, sources)?;
        } else if kind.is_file() && Path::new(&name).extension().is_some_and(|rs| rs == "rs") {
            let full = root.join(&path);
            let text =
                fs::read_to_string(&full).with_context(|| format!("reading {}", full.display()))?;
            sources.push((path, text));
        }
    }
    Ok(())
}
