//! The rig itself: it leaves nothing behind, also when a test fails (topology: `vm_test::rig`).

use std::process::Command;

use vm_test::namespace::{output, sweep};
use vm_test::{Options, Process, Rig};

fn namespaces() -> String {
    output(Command::new("ip").args(["netns", "list"])).expect("list namespaces")
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mine = format!("ngr{}-", std::process::id());
    let failed = std::panic::catch_unwind(|| {
        let rig = Rig::start(Options::untranslated()).unwrap();
        assert!(namespaces().contains(rig.gw.namespace.name()));
        let directory = rig.directory().to_owned();
        std::panic::resume_unwind(Box::new(directory));
    });
    let directory = failed.unwrap_err().downcast::<std::path::PathBuf>().unwrap();
    assert!(!namespaces().contains(&mine), "{}", namespaces());
    assert!(!directory.exists(), "{} is left", directory.display());
}

#[test]
fn a_dead_processes_rig_is_swept() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let name = format!("ngr{}-0-gw", gone.id());
    output(Command::new("ip").args(["netns", "add", &name])).unwrap();
    let files = std::env::temp_dir().join(format!("vm-test-{}-x", gone.id()));
    std::fs::create_dir(&files).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &name, "sleep", "600"]);
    let mut left = Process::start(command, "sleep", directory.path()).unwrap();
    let in_it = || output(Command::new("ip").args(["netns", "pids", &name]));
    let limit = std::time::Duration::from_secs(5);
    let entered = || Ok((!in_it()?.trim().is_empty()).then_some(()));
    vm_test::wait::until("the program to enter", limit, entered).unwrap();
    sweep().unwrap();
    assert!(!namespaces().contains(&name));
    assert!(!files.exists(), "{} is left", files.display());
    vm_test::wait::until("its end", limit, || left.ended()).unwrap();
}
