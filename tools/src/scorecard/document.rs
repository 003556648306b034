//! The scorecard as a page of Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Bug, Requirement, Scorecard, Status, Test, Verdict};

const INTRO: &str = "\
# RFC compliance

Made by `natgate-scorecard generate` from [rfc-requirements.tsv](rfc-requirements.tsv), [bug-museum.tsv](bug-museum.tsv),
[rfc-unproven.tsv](rfc-unproven.tsv) and the sources; `natgate-scorecard check`, a step of `tools/test`, fails if it is not up to date.

What the NAT RFCs ask, clause by clause, what natgate does about it, which code does it and which test shows it.
The wording is ours; the text of the RFC decides in doubt.

- **ID**: `4787-REQ-5a` is a numbered requirement, `5382-S5a` a clause of the text of section 5; `.1`, `.2` split one that carries several levels.
- **Level** as the RFC prints it. A star marks lower-case words; `—` is a binding statement without a key word.
- **Decision** begins with a verdict: **B** met by both profiles, `high-density` (HD, the default) and `rfc4787` (strict) · **S** met by `rfc4787`
  only, `high-density` differs on purpose · **X** met by neither, for a reason · **N** does not apply, or an option that is not used · **L** decided, built later.
- **Code** cites the requirement in a comment. **Tests** carry its ID (`// Proves: 4787-REQ-9`). \"Through\" names requirements that make up this one.
- **No test** means what it says. *Not met or not shown* is an admission with its reason.
- D1 to D15 are explained in [rfc-decisions.md](rfc-decisions.md).
";

/// Makes the page.
pub fn document(card: &Scorecard) -> String {
    let mut page = String::from(INTRO);
    totals(&mut page, card);
    let mut section = "";
    let mut part = "";
    for row in &card.requirements {
        if row.part != part {
            part = &row.part;
            let what = if part == "1" { "what binds now" } else { "later stages" };
            let _ = write!(page, "\n# Part {part}: {what}\n");
        }
        if row.section != section {
            section = &row.section;
            let _ = write!(page, "\n## {section}\n\n");
            page.push_str("| ID | Level | Requirement | Decision | Code | Tests |\n|---|---|---|---|---|---|\n");
        }
        requirement(&mut page, card, row);
    }
    museum(&mut page, card);
    page.push_str("\n# Beside Linux's NAT\n\n");
    page.push_str("The same packets through both: where they differ, by requirement. Made by the suite `twin`; ");
    page.push_str("what they agree on is in [twin.md](twin.md).\n\n");
    page.push_str(&card.twin);
    page
}

fn requirement(page: &mut String, card: &Scorecard, row: &Requirement) {
    let dot = if row.decision.is_empty() { "" } else { " · " };
    let code: Vec<String> = card.code(&row.id).map(link).collect();
    let code = if code.is_empty() { "–".to_owned() } else { code.join("<br>") };
    let _ = writeln!(
        page,
        "| {} | {} | {} | **{}**{dot}{} | {code} | {} |",
        row.id,
        row.level.replace('*', "\\*"),
        row.text,
        row.verdict.letter(),
        row.decision,
        tests(card, &row.id, &row.through, &card.status(row)),
    );
}

fn tests(card: &Scorecard, id: &str, through: &[String], status: &Status<'_>) -> String {
    let mut cells: Vec<String> = card.tests(id).map(test).collect();
    if !through.is_empty() {
        cells.push(format!("through {}", through.join(", ").replace('*', "\\*")));
    }
    match status {
        Status::Missing => cells.insert(0, "**no test**".to_owned()),
        Status::Admitted(reason) => cells.insert(0, format!("*not met or not shown*: {reason}")),
        Status::NotAsked if cells.is_empty() => cells.push("–".to_owned()),
        Status::Shown | Status::NotAsked => {}
    }
    cells.join("<br>")
}

fn test(test: &Test) -> String {
    format!("{}::`{}`", link(&test.file), test.name)
}

/// A link from the document to a source; `src` and `tests` go without saying.
fn link(file: &str) -> String {
    let shown: Vec<&str> = file.split('/').filter(|part| *part != "src").collect();
    format!("[{}](../{file})", shown.join("/"))
}

fn totals(page: &mut String, card: &Scorecard) {
    page.push_str("\n## Totals\n\n");
    page.push_str(
        "| RFC | Requirements | of these MUST | Shown by tests | of these S | Not shown (admitted) \
         | **No test** | X | N | L |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut done = BTreeSet::new();
    for row in &card.requirements {
        if done.insert(row.rfc()) {
            total(page, card, row.rfc(), |other| other.rfc() == row.rfc());
        }
    }
    total(page, card, "**Part 1**", |row| row.part == "1");
    total(page, card, "**All**", |_| true);
    page.push_str("\nMUST that natgate gives up: by the default profile only (S): ");
    page.push_str(&given_up(card, Verdict::Strict));
    page.push_str("; by both (X): ");
    page.push_str(&given_up(card, Verdict::Neither));
    page.push_str(".\n");
}

fn given_up(card: &Scorecard, verdict: Verdict) -> String {
    let rows = card.requirements.iter().filter(|row| row.verdict == verdict && row.is_must());
    let ids: Vec<&str> = rows.map(|row| row.id.as_str()).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

fn total(page: &mut String, card: &Scorecard, name: &str, of: impl Fn(&Requirement) -> bool) {
    let rows: Vec<&Requirement> = card.requirements.iter().filter(|row| of(row)).collect();
    let count = |which: &dyn Fn(&Requirement) -> bool| rows.iter().filter(|r| which(r)).count();
    let verdict = |verdict| count(&|row: &Requirement| row.verdict == verdict);
    let shown = |row: &Requirement| card.status(row) == Status::Shown;
    let _ = writeln!(
        page,
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        rows.len(),
        count(&Requirement::is_must),
        count(&shown),
        count(&|row: &Requirement| shown(row) && row.verdict == Verdict::Strict),
        count(&|row: &Requirement| matches!(card.status(row), Status::Admitted(_))),
        count(&|row: &Requirement| card.status(row) == Status::Missing),
        verdict(Verdict::Neither),
        verdict(Verdict::NotApplicable),
        verdict(Verdict::Later),
    );
}

fn museum(page: &mut String, card: &Scorecard) {
    page.push_str(
        "\n# Bug museum\n\nBugs that other NATs had. Either a test shows that natgate has not (`// Museum: C12`), or a \
         line says why it can't have them.\n\n| No. | Bug | Here |\n|---|---|---|\n",
    );
    for bug in &card.bugs {
        let _ = writeln!(page, "| {} | {} | {} |", bug.id, bug.name, here(card, bug));
    }
}

fn here(card: &Scorecard, bug: &Bug) -> String {
    let shown = tests(card, &bug.id, &[], &card.bug_status(bug));
    if bug.impossible.is_empty() {
        return shown;
    }
    let why = format!("can't happen: {}", bug.impossible);
    if shown == "–" { why } else { format!("{why}<br>{shown}") }
}
