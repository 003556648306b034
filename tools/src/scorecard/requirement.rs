//! What is demanded: requirements, bugs of others, and what is admitted not to be shown.
//!
//! Each comes from a table of its own in `docs/`, one row a line, cells separated by tabs.

use std::collections::{BTreeMap, BTreeSet};

/// What natgate does about a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Met by both profiles.
    Both,
    /// Met by the profile `rfc4787` only.
    Strict,
    /// Met by neither profile, for a reason.
    Neither,
    /// Does not apply, or is an option that natgate does not use.
    NotApplicable,
    /// Decided, and built in a later stage.
    Later,
}

impl Verdict {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "B" => Self::Both,
            "S" => Self::Strict,
            "X" => Self::Neither,
            "N" => Self::NotApplicable,
            "L" => Self::Later,
            _ => return None,
        })
    }

    /// The letter that stands for it.
    pub fn letter(self) -> char {
        match self {
            Self::Both => 'B',
            Self::Strict => 'S',
            Self::Neither => 'X',
            Self::NotApplicable => 'N',
            Self::Later => 'L',
        }
    }

    /// Whether a test must show it.
    pub fn needs_proof(self) -> bool {
        matches!(self, Self::Both | Self::Strict)
    }
}

/// One requirement of one RFC.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// `4787-REQ-9a`, or `5382-S5a` for a clause of the text.
    pub id: String,
    /// 1 binds now, 2 later.
    pub part: String,
    /// Heading that it stands under.
    pub section: String,
    /// Level as the RFC prints it.
    pub level: String,
    /// What is required, in our words.
    pub text: String,
    /// What natgate does about it.
    pub verdict: Verdict,
    /// How, and why.
    pub decision: String,
    /// What a test must show.
    pub proof: String,
    /// Requirements that are this one when taken together: ids, or `5508-*` for a whole RFC.
    pub through: Vec<String>,
}

impl Requirement {
    /// Number of its RFC.
    pub fn rfc(&self) -> &str {
        self.id.split('-').next().unwrap_or_default()
    }

    /// Whether it binds as MUST, MUST NOT.
    pub fn is_must(&self) -> bool {
        matches!(self.level.split(" / ").next(), Some("MUST" | "MUST NOT"))
    }
}

/// A bug that another program had.
#[derive(Clone, Debug)]
pub struct Bug {
    /// `C12`.
    pub id: String,
    /// Symptom and cause.
    pub name: String,
    /// Why natgate can't have it; empty if tests must show that it has not.
    pub impossible: String,
}

/// Rows of a table with this header; rows with too few or too many cells become problems.
fn rows<'a>(
    name: &str,
    text: &'a str,
    header: &str,
    problems: &mut Vec<String>,
) -> Vec<(usize, Vec<&'a str>)> {
    let width = header.split('\t').count();
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    if lines.next().is_none_or(|(_, first)| first != header) {
        problems.push(format!("table ({name}:1): the first line is not {header:?}"));
        return Vec::new();
    }
    let mut rows = Vec::new();
    for (at, line) in lines {
        let mut cells: Vec<&str> = line.split('\t').map(str::trim).collect();
        // Empty cells at the end may be left out.
        if cells.len() < width {
            cells.resize(width, "");
        }
        if cells.len() > width || cells[0].is_empty() || cells[1].is_empty() {
            problems
                .push(format!("row ({name}:{at}): it needs {width} cells, the first two filled"));
        } else {
            rows.push((at, cells));
        }
    }
    rows
}

/// Reads the table of requirements.
pub(super) fn requirements(name: &str, text: &str, problems: &mut Vec<String>) -> Vec<Requirement> {
    let header = "id\tpart\tsection\tlevel\trequirement\tverdict\tdecision\tproof\tthrough";
    let mut all: Vec<Requirement> = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, cells) in rows(name, text, header, problems) {
        let Some(verdict) = Verdict::read(cells[5]) else {
            problems.push(format!("verdict ({name}:{at}): {:?} is not B, S, X, N or L", cells[5]));
            continue;
        };
        if !seen.insert(cells[0]) {
            problems.push(format!("id ({name}:{at}): {} is there twice", cells[0]));
            continue;
        }
        all.push(Requirement {
            id: cells[0].to_owned(),
            part: cells[1].to_owned(),
            section: cells[2].to_owned(),
            level: cells[3].to_owned(),
            text: cells[4].to_owned(),
            verdict,
            decision: cells[6].to_owned(),
            proof: cells[7].to_owned(),
            through: cells[8].split_whitespace().map(str::to_owned).collect(),
        });
    }
    for row in &all {
        for other in &row.through {
            let known = match other.strip_suffix('*') {
                Some(prefix) => seen.iter().any(|id| id.starts_with(prefix)),
                None => seen.contains(other.as_str()),
            };
            if !known {
                problems.push(format!("through ({name}: {}): there is no {other}", row.id));
            }
        }
    }
    all
}

/// Reads the table of bugs.
pub(super) fn bugs(name: &str, text: &str, problems: &mut Vec<String>) -> Vec<Bug> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for (at, cells) in rows(name, text, "id\tbug\twhy it can't happen here", problems) {
        if !seen.insert(cells[0]) {
            problems.push(format!("id ({name}:{at}): {} is there twice", cells[0]));
            continue;
        }
        all.push(Bug {
            id: cells[0].to_owned(),
            name: cells[1].to_owned(),
            impossible: cells[2].to_owned(),
        });
    }
    all
}

/// Reads the list of what is admitted not to be shown: reasons by id.
pub(super) fn unproven(
    name: &str,
    text: &str,
    problems: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (at, cells) in rows(name, text, "id\treason", problems) {
        if all.insert(cells[0].to_owned(), cells[1].to_owned()).is_some() {
            problems.push(format!("id ({name}:{at}): {} is there twice", cells[0]));
        }
    }
    all
}
