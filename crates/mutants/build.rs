//! Finds nvcc where warpfold's own build finds it, and tells the program.

#[path = "../../build/toolkit.rs"]
#[allow(dead_code, reason = "mutants end as PTX")]
mod toolkit;

use std::env;
use std::path::{Path, PathBuf};

/// What the search for the compilers asks of a project.
struct Project {
    pinned_toolkit: Option<PathBuf>,
}

/// An environment variable that cargo shall watch; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn main() {
    for read in ["build.rs", "../../build/toolkit.rs"] {
        println!("cargo::rerun-if-changed={read}");
    }
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace: &Path = folder.ancestors().nth(2).expect("the crate lies in the workspace's crates folder");
    let set = |name: &str, value: &str| println!("cargo::rustc-env=MUTANTS_{name}={}", value.replace('\n', " "));
    match toolkit::find(&Project { pinned_toolkit: Some(workspace.join("target/toolkit")) }) {
        Ok(Ok(found)) => {
            set("NVCC", &found.nvcc.display().to_string());
            set("NVCC_FINGERPRINT", &found.fingerprint);
            if let Some(host_compiler) = found.host_compiler {
                set("HOST_COMPILER", &host_compiler.display().to_string());
            }
        }
        Ok(Err(reason)) => set("NO_NVCC", &reason),
        Err(error) => println!("cargo::error={error}"),
    }
}
