//! Compiles the steering program with clang.

fn main() {
    println!("cargo::rerun-if-changed=bpf");
}
