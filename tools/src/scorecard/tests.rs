//! Tables and sources that are right, and many that are not.

use super::*;

const HEADER: &str = "id\tpart\tsection\tlevel\trequirement\tverdict\tdecision\tproof\tthrough\n";
const BUGS: &str = "id\tbug\twhy it can't happen here\nC1\tlost\nC2\tgone\tno such thing\n";
const NOTHING_ADMITTED: &str = "id\treason\n";

/// Six requirements, one of each kind.
fn requirements() -> String {
    let row = |cells: &[&str]| cells.join("\t") + "\n";
    let rfc = |id, verdict| row(&[id, "1", "RFC 4787 – UDP", "MUST", "it", verdict, "", "so"]);
    HEADER.to_owned()
        + &rfc("4787-REQ-1", "S")
        + &rfc("4787-REQ-10", "B")
        + &rfc("4787-REQ-10a", "N")
        + &row(&["7857-S2.1a", "1", "RFC 7857", "must*", "a", "B", "how", "so"])
        + &row(&["7857-S2.1b", "1", "RFC 7857", "MAY", "b", "X", "why not", "so"])
        + &row(&["6888-REQ-1a", "1", "RFC 6888", "MUST", "4787", "S", "", "above", "4787-*"])
}

/// Source text; the margin keeps these marks from being read as marks of this file.
fn source(text: &str) -> String {
    text.lines().map(|line| line.trim_start().trim_start_matches('|').to_owned() + "\n").collect()
}

fn card(unproven: &str, files: &[(&str, &str)]) -> Scorecard {
    let files: Vec<_> = files.iter().map(|(file, text)| (*file, source(text))).collect();
    let files = files.iter().map(|(file, text)| (*file, text.as_str()));
    Scorecard::new([&requirements(), BUGS, unproven], files)
}

/// The only problem of one source file.
fn problem(text: &str) -> String {
    let card = card(NOTHING_ADMITTED, &[("vm-test/tests/x.rs", text)]);
    assert_eq!(card.problems.len(), 1, "{:?}", card.problems);
    card.problems[0].clone()
}

fn names(card: &Scorecard, id: &str) -> Vec<String> {
    card.tests(id).map(|test| format!("{}::{}", test.file, test.name)).collect()
}

#[test]
fn marks_are_found_above_tests_of_every_shape() {
    let text = "|// Proves: 4787-REQ-1
        |#[test]
        |fn plain() {}
        |
        |#[test]
        |/// Proves: 4787-REQ-10, 7857-S2.1a
        |// Museum: C1
        |// What else there is to say.
        |#[cfg_attr(
        |    miri,
        |    should_panic
        |)]
        |pub fn among_attributes() -> Result<()> {}
        |
        |proptest! {
        |    #![proptest_config(cases(3))]
        |    // Proves: 4787-REQ-1
        |    // Proves: 4787-REQ-10
        |    #[test]
        |    fn property(x in 1..2) {}
        |}
        |#[tokio::test(flavor = \"current_thread\")]
        |// Proves: 7857-S2.1a
        |async fn later() {}";
    let card = card(NOTHING_ADMITTED, &[("a/tests/x.rs", text)]);
    assert_eq!(card.problems, [""; 0]);
    assert_eq!(names(&card, "4787-REQ-1"), ["a/tests/x.rs::plain", "a/tests/x.rs::property"]);
    let ten = ["a/tests/x.rs::among_attributes", "a/tests/x.rs::property"];
    assert_eq!(names(&card, "4787-REQ-10"), ten);
    let section = ["a/tests/x.rs::among_attributes", "a/tests/x.rs::later"];
    assert_eq!(names(&card, "7857-S2.1a"), section);
    assert_eq!(names(&card, "C1"), ["a/tests/x.rs::among_attributes"]);
    assert_eq!(card.missing(), [""; 0]);
}

#[test]
fn broken_marks_are_named() {
    let no_test = problem("|// Proves: 4787-REQ-1\n|fn helper() {}");
    assert!(no_test.contains("x.rs:1): helper is no test that runs"), "{no_test}");
    let ignored =
        problem("|// Proves: 4787-REQ-1\n|#[test]\n|#[ignore = \"slow\"]\n|fn never() {}");
    assert!(ignored.contains("never is no test that runs"), "{ignored}");
    for apart in [
        "|// Proves: 4787-REQ-1\n|\n|#[test]\n|fn apart() {}",
        "|#[test]\n|fn inside() {\n|// Proves: 4787-REQ-1\n|let x = 1;\n|}",
        "|#[test]\n|fn before() {}\n|// Proves: 4787-REQ-1",
        "|// Proves: 4787-REQ-1\n|struct Thing;\n|#[test]\n|fn later() {}",
    ] {
        let why = problem(apart);
        assert!(why.contains("4787-REQ-1 does not stand directly above a test"), "{why}");
    }
    for (text, id) in [
        ("Proves: 4787-REQ-1,", "\"\""),
        ("Proves: 4787-REQ-1 4787-REQ-10", "\"4787-REQ-1 4787-REQ-10\""),
        ("Proves: REQ-1", "\"REQ-1\""),
        ("Proves: 4787-REQ-1.", "\"4787-REQ-1.\""),
        ("Proves: C1", "\"C1\""),
        ("Museum: 4787-REQ-1", "\"4787-REQ-1\""),
        ("Museum: C", "\"C\""),
        ("proves: 4787-REQ-1", "\"4787-REQ-1\""),
        ("Proves:", "\"\""),
    ] {
        let why = problem(&format!("|// {text}\n|#[test]\n|fn t() {{}}"));
        assert!(why.contains(&format!("{id} is no id")), "{text}: {why}");
    }
    for unknown in ["Proves: 4787-REQ-2", "Museum: C3"] {
        let why = problem(&format!("|// {unknown}\n|#[test]\n|fn t() {{}}"));
        let id = unknown.split(' ').next_back().unwrap();
        assert!(why.contains(&format!("x.rs: t): there is no {id}")), "{why}");
    }
}

#[test]
fn citations_count_in_the_product_only() {
    let cited = |file: &str, line: &str| {
        let card = card(NOTHING_ADMITTED, &[(file, &format!("|{line}"))]);
        assert_eq!(card.problems, [""; 0], "{line}");
        let ids: Vec<String> =
            card.ids().filter(|id| card.code(id).next().is_some()).map(str::to_owned).collect();
        ids.join(" ")
    };
    let file = "conntrack/src/nat.rs";
    assert_eq!(cited(file, "// RFC 4787 REQ-1: one"), "4787-REQ-1");
    assert_eq!(cited(file, "let x = 1; // (RFC 4787 REQ-10)"), "4787-REQ-10");
    assert_eq!(
        cited(file, "//! As RFC 4787 REQ-1, REQ-10 and REQ-10a ask."),
        "4787-REQ-1 4787-REQ-10 4787-REQ-10a"
    );
    assert_eq!(cited(file, "/// RFC 7857 section 2.1, its table"), "7857-S2.1a 7857-S2.1b");
    assert_eq!(cited(file, "/// RFC 7857 2.1b"), "7857-S2.1b");
    assert_eq!(cited(file, "/// RFC 7857 2.9, 2.1a and 2.1b"), "7857-S2.1a 7857-S2.1b");
    assert_eq!(cited(file, "(120, \"4787-REQ-10a\"),"), "4787-REQ-10a");
    assert_eq!(cited(file, "// RFC 6888 REQ-1"), "6888-REQ-1a");
    for nothing in [
        "// RFC 4787 says",
        "// RFC 7857 section 2",
        "// REQ-1",
        "// RFC 9293 section 3.5",
        "let rfc = 4787;",
        "// RFC 4787 REQ",
        "// RFC 5597 REQ-3",
    ] {
        assert_eq!(cited(file, nothing), "", "{nothing}");
    }
    for elsewhere in ["conntrack/src/tests/x.rs", "src/api/tests.rs", "vm-test/src/rig.rs"] {
        assert_eq!(cited(elsewhere, "// RFC 4787 REQ-1"), "", "{elsewhere}");
    }
    assert_eq!(cited(file, "#[cfg(test)]\n|mod tests {\n|// RFC 4787 REQ-1"), "");
}

#[test]
fn a_citation_of_nothing_is_named() {
    for line in ["|// RFC 4787 REQ-99", "|// 4787-REQ-1b", "|// RFC 4787 REQ-1, REQ-2"] {
        let card = card(NOTHING_ADMITTED, &[("src/x.rs", line)]);
        assert_eq!(card.problems.len(), 1, "{line}: {:?}", card.problems);
        assert!(card.problems[0].starts_with("citation (src/x.rs:1): there is no 4787-REQ-"));
    }
}

#[test]
fn what_has_no_test_is_missing_unless_its_verdict_asks_for_none() {
    let all = card(NOTHING_ADMITTED, &[]);
    assert_eq!(all.missing(), ["4787-REQ-1", "4787-REQ-10", "7857-S2.1a", "6888-REQ-1a", "C1"]);
    assert!(document(&all).contains("| 4787-REQ-10 | MUST | it | **B** | – | **no test** |"));
    // A row that consists of others is shown when all those are that are to be met.
    let one = card(NOTHING_ADMITTED, &[("a.rs", "|// Proves: 4787-REQ-1\n|#[test]\n|fn t() {}")]);
    assert_eq!(one.missing(), ["4787-REQ-10", "7857-S2.1a", "6888-REQ-1a", "C1"]);
    let both = "|// Proves: 4787-REQ-1, 4787-REQ-10\n|#[test]\n|fn t() {}";
    let both = card(NOTHING_ADMITTED, &[("a/src/b.rs", both)]);
    assert_eq!(both.missing(), ["7857-S2.1a", "C1"]);
    let page = document(&both);
    assert!(page.contains("| **S** | – | through 4787-\\* |"), "{page}");
    assert!(page.contains("| – | [a/b.rs](../a/src/b.rs)::`t` |"), "{page}");
    assert!(page.contains("| 4787 | 3 | 3 | 2 | 1 | 0 | 0 | 0 | 1 | 0 |"), "{page}");
    assert!(page.contains("| 7857 | 2 | 0 | 0 | 0 | 0 | 1 | 1 | 0 | 0 |"), "{page}");
}

#[test]
fn admissions_are_shown_and_do_not_outlive_their_cause() {
    let admitted = "id\treason\n7857-S2.1a\tnot built\nC1\tno rig for it\n";
    let honest = card(admitted, &[]);
    assert_eq!(honest.problems, [""; 0]);
    assert_eq!(honest.missing(), ["4787-REQ-1", "4787-REQ-10", "6888-REQ-1a"]);
    let page = document(&honest);
    assert!(page.contains("| *not met or not shown*: not built |"), "{page}");
    assert!(page.contains("| C1 | lost | *not met or not shown*: no rig for it |"), "{page}");
    let proven = "|// Proves: 7857-S2.1a\n|#[test]\n|fn t() {}";
    for (reasons, files, why) in [
        (admitted, &[("a.rs", proven)][..], "7857-S2.1a: a test shows it now"),
        ("id\treason\n7857-S2.1b\tx\n", &[], "7857-S2.1b: its verdict asks for no test"),
        ("id\treason\n4787-REQ-7\tx\n", &[], "4787-REQ-7: there is no such requirement"),
        ("id\treason\nC1\t\n", &[], "it needs 2 cells"),
        ("id\treason\nC1\tx\nC1\ty\n", &[], "C1 is there twice"),
        ("", &[], "the first line is not"),
    ] {
        let card = card(reasons, files);
        assert_eq!(card.problems.len(), 1, "{:?}", card.problems);
        assert!(card.problems[0].contains(why), "{:?}", card.problems);
    }
}

#[test]
fn broken_tables_are_named() {
    let row = |cells: &str| HEADER.to_owned() + &cells.replace('|', "\t") + "\n";
    for (table, why) in [
        (row("4787-REQ-1|1|RFC|MUST|it|Q||so"), "\"Q\" is not B, S, X, N or L"),
        (row("4787-REQ-1||RFC|MUST|it|B||so"), "it needs 9 cells"),
        (row("4787-REQ-1|1|RFC|MUST|it|B||so||more"), "it needs 9 cells"),
        (row("4787-REQ-1|1|RFC|MUST|it|B||so|4787-REQ-2"), "there is no 4787-REQ-2"),
        (row("4787-REQ-1|1|RFC|MUST|it|B||so|5382-*"), "there is no 5382-*"),
        (row("1-A|1|R|MUST|a|B\n1-A|1|R|MUST|b|B"), "1-A is there twice"),
        ("id\tlevel\n".to_owned(), "the first line is not"),
    ] {
        let card = Scorecard::new([&table, BUGS, NOTHING_ADMITTED], []);
        assert_eq!(card.problems.len(), 1, "{why}: {:?}", card.problems);
        assert!(card.problems[0].contains(why), "{:?}", card.problems);
    }
    let circle = row("1-A|1|R|MUST|a|B|||1-B\n1-B|1|R|MUST|b|B|||1-A");
    let card = Scorecard::new([&circle, BUGS, NOTHING_ADMITTED], []);
    assert_eq!(card.missing(), ["1-A", "1-B", "C1"], "a circle shows nothing");
}

/// The tables of this project, and a project of its own for what writes files.
#[test]
fn a_document_that_is_not_up_to_date_fails_the_check() {
    let root = std::env::temp_dir().join(format!("natgate-scorecard-{}", std::process::id()));
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(REQUIREMENTS, &requirements());
    write(MUSEUM, BUGS);
    write(UNPROVEN, NOTHING_ADMITTED);
    write(TWIN, "# Twin\n\n| what | natgate |\n| --- | --- |\n| ports | random |\n");
    write("src/x.rs", &source("|// Proves: 4787-REQ-1, 4787-REQ-10\n|#[test]\n|fn t() {}"));
    write("target/y.rs", &source("|// Proves: nothing"));
    write(".hidden/y.rs", &source("|// Proves: nothing"));
    let problems = |allow| check(&root, allow).unwrap().problems;
    assert!(problems(true)[0].contains("it is not what the sources say"));
    assert_eq!(generate(&root).unwrap().problems, [""; 0]);
    assert_eq!(problems(true), [""; 0]);
    let missing = ["no test (7857-S2.1a): nothing proves it", "no test (C1): nothing proves it"];
    assert_eq!(problems(false), missing);
    // A mark moves to another test: the document names the old one.
    write("src/x.rs", &source("|// Proves: 4787-REQ-1, 4787-REQ-10\n|#[test]\n|fn u() {}"));
    assert!(problems(true)[0].contains("it is not what the sources say"));
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn the_tables_of_this_project_are_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let card = Scorecard::read(&root).unwrap();
    assert_eq!(card.problems, [""; 0]);
    let count = |letter| card.requirements.iter().filter(|r| r.verdict.letter() == letter).count();
    assert_eq!(['B', 'S', 'X', 'N', 'L'].map(count), [181, 16, 12, 13, 80]);
    let ids: Vec<String> = (1..=42).map(|n| format!("C{n}")).collect();
    assert!(card.bugs.iter().map(|bug| &bug.id).eq(&ids));
}
