//! Compiles the steering program with clang.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "bpf/steer.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let output =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.bpf.o");
    if let Err(why) = compile(&output) {
        println!("cargo::error={why}");
    }
}

fn compile(output: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]);
    for directory in multiarch_includes() {
        command.arg("-idirafter").arg(directory);
    }
    command.args(["-c", SOURCE, "-o"]).arg(output);
    let result = command.output().map_err(|error| {
        format!("cannot run `{clang}` ({SOURCE}): {error}; install clang 14 or later, or name it in the variable CLANG")
    })?;
    if result.status.success() {
        return Ok(());
    }
    for line in String::from_utf8_lossy(&result.stderr).lines() {
        println!("cargo::warning={line}");
    }
    Err(format!(
        "cannot compile {SOURCE}: see above; it needs the headers of the kernel and of libbpf (Debian: linux-libc-dev, libbpf-dev)"
    ))
}

/// Debian keeps `asm/` in a directory per architecture, which clang doesn't search for `-target bpf`.
fn multiarch_includes() -> Vec<PathBuf> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let Ok(entries) = fs::read_dir("/usr/include") else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("asm/types.h").exists())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&architecture))
        })
        .collect()
}
