//! Compiles kernels/elementwise.cu, once a type, by the same rules as warpfold's own kernels.

#[path = "../../build/mod.rs"]
mod kernels;

use std::env;
use std::path::PathBuf;

use kernels::{Project, Unit};

fn main() {
    for read in ["build.rs", "../../build", "../../src/ptx.rs"] {
        println!("cargo::rerun-if-changed={read}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let units = [("f16", "__half"), ("bf16", "__nv_bfloat16")].map(|(dtype, element)| Unit {
        entry: format!("minilm_{dtype}"),
        source: "kernels/elementwise.cu".into(),
        include_dirs: vec![],
        defines: vec![("MINILM_ELEMENT".to_string(), element.to_string())],
        virtual_arch: "compute_80",
        ptx_version: "7.8",
    });
    let project = Project {
        root: &root,
        pinned_toolkit: Some(root.join("../../target/toolkit")),
        units: &units,
        with_positions: false,
    };
    kernels::build(&project);
}
