//! How are the traffic programs loaded and attached?

use anyhow::{Context, Result, bail};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.bpf.o"));

/// Loads the object after `set` has set its constants.
pub(crate) fn load<'a>(set: impl FnOnce(&mut EbpfLoader<'a>)) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    set(&mut loader);
    loader.load(OBJECT).context(
        "error: the traffic programs (BPF): the kernel refused them; run as root, on Linux 5.18 or later",
    )
}

/// The program `name`, loaded into the kernel.
pub(crate) fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let Some(program) = object.program_mut(name) else {
        bail!("error: the traffic programs (BPF): {name} is missing; rebuild natgate-tools");
    };
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| {
        format!("error: the program {name} (BPF): the kernel refused it; run as root, on Linux 5.18 or later")
    })?;
    Ok(program)
}

/// Attaches the program `name` to `interface`, in the driver if it can.
pub(crate) fn attach(object: &mut Ebpf, name: &str, interface: &str) -> Result<()> {
    program(object, name)?.attach(interface, XdpMode::default()).with_context(|| {
        format!(
            "error: the program {name} ({interface}): it can't be attached; \
             check that the interface exists and that no other XDP program is on it"
        )
    })?;
    Ok(())
}
