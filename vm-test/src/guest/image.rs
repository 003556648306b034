//! What does a guest boot? A kernel of Debian's, and an initial file system made here: busybox, the driver's modules,
//! natgate, and the programs that its network is set up with, with their libraries.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use crate::binary::{natgate_binary, program};
use crate::namespace::output;

/// Debian's kernels for virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 6.1, Debian 12's own.
    Bookworm,
    /// 6.12, from the backports of its successor.
    Backported,
}

impl Kernel {
    /// What `VM_TEST_KERNEL` says; 6.12 by default.
    pub fn from_env() -> Self {
        match std::env::var("VM_TEST_KERNEL").as_deref() {
            Ok("6.1") => Self::Bookworm,
            Ok("6.12") | Err(_) => Self::Backported,
            Ok(other) => panic!("VM_TEST_KERNEL={other}: the kernels are 6.1 and 6.12"),
        }
    }

    /// Its version, as `VM_TEST_KERNEL` names it.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Bookworm => "6.1",
            Self::Backported => "6.12",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Bookworm => "linux-image-cloud-amd64",
            Self::Backported => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// Modules of the network driver and of the bus below it, in the order in which they need each other. A kernel has some of
/// them built in.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];

/// Programs of this machine that busybox has no or smaller ones for: `/usr/local/bin`.
const PROGRAMS: [&str; 2] = ["ip", "ethtool"];

/// The first program of a guest: it serves one line at a time on the second serial port. An answer ends with the exit
/// status between two pairs of `@`.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/local/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
for module in $(cat /lib/modules/order); do insmod /lib/modules/$module.ko; done
ip link set lo up
ip addr add 169.254.77.2/30 dev eth2 && ip link set eth2 up
vm-test-guest serve 169.254.77.2 /run/natgate.sock 2>/dev/null &
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo "@@ready@@" >&3
while IFS= read -r line <&3; do
	sh -c "$line" </dev/null >/tmp/.answer 2>&1
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
    /// The image for `kernel` and the natgate under test. Both are made once, and kept beside the tests' programs.
    pub fn make(kernel: Kernel) -> Result<Self> {
        let unpacked = unpacked(kernel)?;
        let (place, natgate) = (kept()?, natgate_binary()?);
        let prefix = format!("initrd-{}-", kernel.version());
        let mut recipe = DefaultHasher::new();
        (INIT, MODULES, PROGRAMS).hash(&mut recipe);
        for program in [&natgate, &program("vm-test-guest")?] {
            fs::metadata(program)?.modified()?.duration_since(UNIX_EPOCH)?.hash(&mut recipe);
        }
        let initrd = place.join(format!("{prefix}{:016x}", recipe.finish()));
        if !initrd.exists() {
            let directory = tempfile::tempdir_in(&place)?;
            let packed = pack(&unpacked, &natgate, directory.path())?;
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
        Ok(Self { kernel: find(&unpacked.join("boot"), "vmlinuz-")?, initrd })
    }
}

/// The initial file system, made in `directory`.
fn pack(unpacked: &Path, natgate: &Path, directory: &Path) -> Result<Vec<u8>> {
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
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        if let Some(contents) = read_module(unpacked, module)? {
            fs::write(root.join(format!("lib/modules/{name}.ko")), contents)?;
            order.extend([name, "\n"]);
        }
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

/// Where kernels, images and consoles of failed tests are kept.
pub(super) fn kept() -> Result<PathBuf> {
    let binary = natgate_binary()?;
    let place =
        binary.parent().and_then(Path::parent).context("natgate lies nowhere")?.join("guest");
    fs::create_dir_all(&place)?;
    Ok(place)
}

/// The directory with the contents of the kernel's package.
fn unpacked(kernel: Kernel) -> Result<PathBuf> {
    let depends = output(Command::new("apt-cache").args(["depends", kernel.package()]))?;
    let package =
        depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = format!(
        "linux-image-{}",
        package.with_context(|| format!("{}: {depends}", kernel.package()))?
    );
    let place = kept()?.join(&package);
    if place.exists() {
        return Ok(place);
    }
    let download = tempfile::tempdir_in(kept()?)?;
    let fetch = |line: &str| {
        let mut command = Command::new("sh");
        output(command.args(["-c", line]).current_dir(download.path()))
    };
    fetch(&format!("apt-get -q download {package} && dpkg-deb -x {package}_*.deb contents"))?;
    fs::rename(download.path().join("contents"), &place)?;
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

/// The first file in `directory` whose name begins with `prefix`.
fn find(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory)?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let starts = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    paths.find(starts).with_context(|| format!("no {prefix}… in {}", directory.display()))
}

/// A module of the kernel, unpacked: Debian packs those of newer ones. `None` if it is built in.
fn read_module(unpacked: &Path, module: &str) -> Result<Option<Vec<u8>>> {
    let version = find(&unpacked.join("lib/modules"), "")?;
    let path = version.join("kernel").join(format!("{module}.ko"));
    if path.exists() {
        return Ok(Some(fs::read(path)?));
    }
    let packed = path.with_extension("ko.xz");
    if !packed.exists() {
        return Ok(None);
    }
    let done = Command::new("xz").args(["--decompress", "--stdout"]).arg(&packed).output()?;
    ensure!(
        done.status.success(),
        "{}: {}",
        packed.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(Some(done.stdout))
}
