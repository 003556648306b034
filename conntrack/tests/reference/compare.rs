//! Runs scenarios, and tells the story of one that fails.

use std::cell::Cell;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::run::{Run, Subject};
use crate::scenario::{Scenario, scenario};

const STEPS_PER_CASE: usize = 200;

fn number_from_env(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// The story of a scenario that fails, told from the start.
fn story<S: Subject>(scenario: &Scenario) -> String {
    let mut run = Run::<S>::new(scenario, true);
    let end = run.run(scenario);
    let Scenario { settings, addresses, max_sessions, .. } = scenario;
    let frame = format!("{settings:#?}, {addresses} addresses, {max_sessions} sessions at most");
    format!("{frame}\n{}{}", run.story(), end.err().unwrap_or_default())
}

/// Compares the subject with the reference for `usual` steps, or as many as the environment says.
pub fn compare<S: Subject>(usual: usize) {
    let steps = number_from_env("NATGATE_STEPS", usual);
    let seed = number_from_env("NATGATE_SEED", 1);
    // Scenarios are half as long as they may be, on average.
    let cases = (steps * 2 / STEPS_PER_CASE).max(1) as u32;
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 30_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(seed as u64).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let packets = Cell::new(0);
    let outcome = runner.run(&scenario(STEPS_PER_CASE), |scenario| {
        let mut run = Run::<S>::new(&scenario, false);
        let end = run.run(&scenario);
        packets.set(packets.get() + run.packets);
        end.map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => println!("{cases} cases, {} packets", packets.get()),
        Err(TestError::Fail(_, scenario)) => panic!("{}", story::<S>(&scenario)),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
