//! The same traffic through natgate and through Linux's NAT: where do the endpoints see something
//! else, and which requirement says who is right (topology: `vm_test::rig`)?
//!
//! ```text
//!  inside 10.244.1.21 ─┐          ┌ natgate ┐          ┌─ 192.0.2.20 outside (raw)
//!  inside 10.244.1.22 ─┼─ node ── gw         r ────────┤
//!      (raw)           │          └ nf_nat  ┘          └─ x (raw)
//! ```
//! Each case says what both must show; `docs/twin.md` is made of the same list, by
//! `VM_TEST_WRITE=1 cargo nextest run -p natgate-vm-test --test twin`.

mod cases;
mod portless;

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use vm_test::inject::hex;
use vm_test::{Lab, Options, Rig, Translator, Wire};

use cases::{CASES, CROWD, Case};

/// What a case plays on.
struct Bench {
    lab: Lab,
    node: Wire,
    router: Wire,
}

impl Bench {
    fn open(rig: &Rig) -> Result<Self> {
        let mac = hex(rig.pods[0].mac("eth0")?);
        for pod in CROWD {
            rig.node
                .ip(&format!("neigh replace 10.244.1.{pod} lladdr {mac} dev pods nud permanent"))?;
        }
        Ok(Self { lab: Lab::open(rig)?, node: Wire::node(rig)?, router: Wire::router(rig)? })
    }

    /// What the endpoints of `case` saw.
    fn play(&self, case: &Case) -> String {
        let quiet = [&self.lab.inside, &self.lab.outside, &self.node, &self.router];
        let done = quiet.into_iter().try_for_each(Wire::drain).and_then(|()| (case.play)(self));
        done.unwrap_or_else(|error| format!("failed: {error:#}"))
    }
}

/// What every case shows with `translator`.
fn shown(translator: Translator) -> Vec<String> {
    let rig = Rig::start(Options { translator, ..Options::default() }).expect("the rig starts");
    let bench = Bench::open(&rig);
    let bench = rig.must(bench);
    CASES.iter().map(|case| bench.play(case)).collect()
}

/// Every case whose outcome is not the expected one.
fn surprises(translator: Translator, expected: fn(&Case) -> &str) -> String {
    let mut text = String::new();
    for (case, shown) in CASES.iter().zip(shown(translator)) {
        if shown != expected(case) {
            let expected = expected(case);
            let _ = writeln!(text, "{}\n  shown:    {shown}\n  expected: {expected}", case.name);
        }
    }
    text
}

/// `docs/twin.md`.
fn document() -> String {
    let mut text = String::from(
        "# natgate and its twin\n\n\
         The same packets, made by hand, through natgate (profile `high-density`) and through Linux's NAT (`nf_nat`, \
         `snat to` a range, `persistent`). Made by the list in `vm-test/tests/twin/cases.rs`, which the suite `twin` checks against both.\n\n\
         ## Where they differ\n\n\
         | Case | Requirement | Linux shows | natgate shows |\n|---|---|---|---|\n",
    );
    for case in CASES.iter().filter(|case| case.linux != case.natgate) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            case.name, case.requirements, case.linux, case.natgate
        );
    }
    text.push_str("\n## Where they agree\n\n| Case | Requirement | Both show |\n|---|---|---|\n");
    for case in CASES.iter().filter(|case| case.linux == case.natgate) {
        let _ = writeln!(text, "| {} | {} | {} |", case.name, case.requirements, case.linux);
    }
    text
}

#[test]
fn linux_shows_what_is_expected_of_it() {
    let surprises = surprises(Translator::KernelNat, |case| case.linux);
    assert!(surprises.is_empty(), "Linux:\n{surprises}");
}

#[test]
fn natgate_shows_what_is_required() {
    let surprises = surprises(Translator::Natgate, |case| case.natgate);
    assert!(surprises.is_empty(), "natgate:\n{surprises}");
}

#[test]
fn the_document_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/twin.md");
    let expected = document();
    if std::env::var_os("VM_TEST_WRITE").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(text == expected, "docs/twin.md is old: run this test with VM_TEST_WRITE=1");
}
