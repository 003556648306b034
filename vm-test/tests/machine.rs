//! The rig's virtual machine: one that hangs ends by itself, and none leaves anything behind (topology: none; cards on taps
//! without a link).

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_test::guest::{Guest, Machine};
use vm_test::{Namespace, wait};

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn namespace() -> Result<Namespace> {
    let namespace = Namespace::new("machine")?;
    for tap in ["tap0", "tap1"] {
        namespace.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr\nlink set {tap} up"))?;
    }
    Ok(namespace)
}

fn boot(life: Duration, namespace: &Namespace, directory: &Path) -> Result<Guest> {
    let machine = Machine { life, ..Machine::with_queues(1) };
    Guest::boot(machine, namespace, &[("tap0", MACS[0]), ("tap1", MACS[1])], directory)
}

/// Programs that were told about `directory`.
fn programs(directory: &Path) -> Result<usize> {
    let wanted = directory.as_os_str().as_encoded_bytes();
    let mut count = 0;
    for process in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        // Processes come and go.
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        count += usize::from(line.windows(wanted.len()).any(|part| part == wanted));
    }
    Ok(count)
}

fn gone(directory: &Path) -> Result<()> {
    wait::until("the end of QEMU", Duration::from_secs(20), || {
        Ok((programs(directory)? == 0).then_some(()))
    })
}

#[test]
fn one_that_hangs_ends_when_its_life_is_over() {
    let (namespace, directory) = (namespace().unwrap(), tempfile::tempdir().unwrap());
    let begun = Instant::now();
    // Nobody boots so fast: to the test this is a machine that never comes up.
    let error = boot(Duration::from_secs(1), &namespace, directory.path()).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(60), "{error:#}");
    let said = format!("{error:#}");
    assert!(said.contains("the guest is gone") || said.contains("QEMU ended"), "{said}");
    gone(directory.path()).unwrap();
}

fn hangs(guest: &Guest, directory: &Path) -> Result<()> {
    ensure!(guest.sh("uname -s")?.trim() == "Linux");
    ensure!(programs(directory)? > 0, "QEMU is not found");
    let begun = Instant::now();
    let said = guest.try_sh_within("sleep 1000", Duration::from_secs(2));
    let error = said.err().context("it says something")?;
    ensure!(format!("{error:#}").contains("the guest says nothing"), "{error:#}");
    ensure!(begun.elapsed() < Duration::from_secs(20), "after {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn one_that_says_nothing_is_given_up_and_leaves_nothing() {
    let (namespace, directory) = (namespace().unwrap(), tempfile::tempdir().unwrap());
    let guest = boot(Duration::from_secs(300), &namespace, directory.path()).unwrap();
    let hung = hangs(&guest, directory.path());
    drop(guest);
    hung.unwrap();
    gone(directory.path()).unwrap();
}

/// As if the test was killed: nobody drops the guest.
#[test]
fn one_whose_thread_is_gone_ends_with_it() {
    let (namespace, directory) = (namespace().unwrap(), tempfile::tempdir().unwrap());
    let alive = std::thread::scope(|scope| {
        let body = || {
            let guest = boot(Duration::from_secs(300), &namespace, directory.path())?;
            std::mem::forget(guest);
            programs(directory.path())
        };
        scope.spawn(body).join().unwrap()
    });
    assert!(alive.unwrap() > 0, "QEMU is not found");
    gone(directory.path()).unwrap();
}
