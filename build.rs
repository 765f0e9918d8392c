//! Compiles every row of `src/variants.rs` and embeds the machine code. Needs nvcc; without it the crate still builds
//! and says at run time how to get the kernels. ARCHITECTURE.md, "Build", tells the whole way.

#[path = "src/dtype.rs"]
#[allow(dead_code, reason = "the crate uses the rest")]
mod dtype;
#[path = "build/mod.rs"]
mod kernels;
#[path = "src/variants.rs"]
#[allow(dead_code, clippy::enum_variant_names, reason = "the crate uses the rest, and makes the names public")]
mod variants;

use std::env;
use std::path::{Path, PathBuf};

use kernels::{Project, Unit};

fn main() {
    for read in ["build.rs", "build", "src/dtype.rs", "src/ptx.rs", "src/variants.rs"] {
        println!("cargo::rerun-if-changed={read}");
    }
    let feature = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    if !feature("CUDA") && !feature("EMULATOR") {
        return;
    }

    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-env-changed=WARPFOLD_SWEEP");
    let with_candidates = env::var_os("WARPFOLD_SWEEP").is_some_and(|value| !value.is_empty());
    let candidates = variants::sweep().filter(|_| with_candidates);
    let units: Vec<Unit> = variants::VARIANTS
        .iter()
        .chain(candidates)
        .map(|variant| Unit {
            entry: variant.name(),
            source: Path::new("kernels").join(variant.source()),
            include_dirs: vec!["kernels".into()],
            defines: variant.defines().into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            virtual_arch: variant.arch.virtual_name(),
            ptx_version: variant.arch.ptx_version(),
        })
        .collect();
    let project = Project {
        root: &root,
        // A published crate has no xtask.
        pinned_toolkit: root.join("xtask").is_dir().then(|| root.join("target/toolkit")),
        units: &units,
        with_positions: feature("EMULATOR"),
    };
    kernels::build(&project);
}
