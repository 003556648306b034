//! What does a guest boot? A kernel of Debian's, and an initial file system made here: busybox, the modules of its cards'
//! driver, natgate, and the programs that its network is set up with, with their libraries.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use super::card::{Card, DEVICES};
use super::kernel::{Kernel, Unpacked};
use crate::binary::{natgate_binary, program};
use crate::namespace::output;

/// Programs of this machine that busybox has no or smaller ones for: `/usr/local/bin`, where they are found first.
const PROGRAMS: [&str; 7] = ["dash", "ip", "bridge", "ethtool", "setpriv", "prlimit", "timeout"];

/// The first program of a guest: it serves one line at a time on the second serial port. An answer ends with the exit
/// status between two pairs of `@`. Lines are for another shell: that of busybox prefers its own programs wherever others are.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/local/bin:/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
for module in $(cat /lib/modules/order); do insmod /lib/modules/$module; done
ip link set lo up
for card in /sys/class/net/eth*; do
	grep -q 02:00:00:00:fe:ff $card/address && ip addr add 169.254.77.2/30 dev ${card##*/} && ip link set ${card##*/} up
done
vm-test-guest serve 169.254.77.2 /run/natgate.sock 2>/dev/null &
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo "@@ready@@" >&3
while IFS= read -r line <&3; do
	/usr/local/bin/dash -c "$line" </dev/null >/tmp/.answer 2>&1
	status=$?
	{ cat /tmp/.answer; printf '\n@@%d@@\n' $status; } >&3
done
poweroff -f
"#;

/// Files that QEMU boots from.
#[derive(Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

impl Image {
    /// The image for `kernel`, these cards and the natgate under test. All are made once, and kept beside the tests'
    /// programs.
    pub fn make(kernel: Kernel, card: Card) -> Result<Self> {
        let (place, natgate) = (kept()?, natgate_binary()?);
        let unpacked = Unpacked::find(kernel, &place)?;
        let prefix = format!("initrd-{}-{}-", kernel.name(), card.name());
        let mut recipe = DefaultHasher::new();
        (INIT, card.modules(), DEVICES, PROGRAMS).hash(&mut recipe);
        for program in [&natgate, &program("vm-test-guest")?] {
            fs::metadata(program)?.modified()?.duration_since(UNIX_EPOCH)?.hash(&mut recipe);
        }
        let initrd = place.join(format!("{prefix}{:016x}", recipe.finish()));
        if !initrd.exists() {
            let directory = tempfile::tempdir_in(&place)?;
            let packed = pack(&unpacked.modules(card)?, &natgate, directory.path())?;
            let new = directory.path().join("initrd");
            fs::write(&new, packed)?;
            for old in fs::read_dir(&place)?.filter_map(Result::ok) {
                if old.file_name().to_string_lossy().starts_with(&prefix) {
                    // Another test may be as far.
                    let _ = fs::remove_file(old.path());
                }
            }
            fs::rename(new, &initrd)?;
        }
        Ok(Self { kernel: unpacked.kernel(), initrd })
    }
}

/// The initial file system, made in `directory`.
fn pack(modules: &[PathBuf], natgate: &Path, directory: &Path) -> Result<Vec<u8>> {
    let root = directory.join("root");
    for name in ["bin", "dev", "proc", "sys", "run", "tmp", "etc", "lib/modules"] {
        fs::create_dir_all(root.join(name))?;
    }
    install(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    for (program, name) in
        [(natgate, "bin/natgate"), (&program("vm-test-guest")?, "bin/vm-test-guest")]
    {
        install_program(program, &root.join(name), &root)?;
        output(Command::new("strip").arg(root.join(name)))?;
    }
    for name in PROGRAMS {
        install_program(&find_program(name)?, &root.join("usr/local/bin").join(name), &root)?;
    }
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().context("a module without a name")?;
        install(module, &root.join("lib/modules").join(name))?;
        order.extend([&*name.to_string_lossy(), "\n"]);
    }
    fs::write(root.join("lib/modules/order"), order)?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let pack = "find . | cpio --create --format=newc --quiet | gzip -1";
    let packed = Command::new("sh").args(["-c", pack]).current_dir(&root).output()?;
    ensure!(packed.status.success(), "cpio: {}", String::from_utf8_lossy(&packed.stderr));
    Ok(packed.stdout)
}

/// Where kernels, images and consoles of failed tests are kept: beside the directory of the tests' programs.
pub(super) fn kept() -> Result<PathBuf> {
    let beside = program("vm-test-guest")?;
    let place =
        beside.parent().and_then(Path::parent).context("the tests lie nowhere")?.join("guest");
    fs::create_dir_all(&place)?;
    Ok(place)
}

fn install(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().context("no directory")?;
    fs::create_dir_all(directory)?;
    fs::copy(from, to).map(drop).with_context(|| format!("copy {}", from.display()))
}

/// The same with the libraries that a program needs.
fn install_program(from: &Path, to: &Path, root: &Path) -> Result<()> {
    install(from, to)?;
    let libraries = output(Command::new("ldd").arg(from))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        install(Path::new(library), &root.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}

/// Where a program of this machine lies.
fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").context("PATH is not set")?;
    let mut places = std::env::split_paths(&path).map(|place| place.join(name));
    places.find(|it| it.is_file()).with_context(|| format!("{name} is not installed"))
}
