//! Compiles the traffic programs with clang.

use std::path::PathBuf;
use std::process::Command;
use std::{env, process};

const SOURCE: &str = "bpf/traffic.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("traffic.bpf.o");
    // Debian keeps <asm/types.h> in a directory per architecture, which clang's BPF target omits.
    let headers = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-idirafter", &headers, "-c"])
        .arg(SOURCE)
        .arg("-o")
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{clang} ended with {status}")),
        Err(error) => fail(&format!("{clang}: {error}; install clang and libbpf-dev")),
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error=the traffic programs ({SOURCE}) do not compile: {why}");
    process::exit(1);
}
