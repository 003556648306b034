//! The steering program and the rights that it asks for.

/// The rights that docs/operations.md asks for; not `CAP_PERFMON`, not `CAP_SYS_ADMIN`.
const RIGHTS: &str = "-all,+net_admin,+net_raw,+bpf,+ipc_lock";

#[test]
fn the_steering_program_loads_without_cap_perfmon() {
    const CHILD: &str = "NATGATE_TEST_LOADS";
    if std::env::var(CHILD).is_ok() {
        crate::xsk::Steering::load().unwrap();
        return;
    }
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) != 0 {
        return; // only root can load it at all
    }
    crate::xsk::Steering::load().unwrap();
    let mut child = std::process::Command::new("setpriv");
    child.args(["--bounding-set", RIGHTS, "--inh-caps", RIGHTS]);
    child.arg(std::env::current_exe().unwrap()).env(CHILD, "1");
    child.args([
        "--exact",
        "tests::rights::the_steering_program_loads_without_cap_perfmon",
        "--nocapture",
    ]);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}
