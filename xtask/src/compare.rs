//! `cargo xtask compare`: the CPU device beside PyTorch's, timed in turns by python/bench/cpu.py.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::pip::python_with_pip;
use crate::progress;
use crate::workspace::{capture, cargo, root, run, shown, target, typed};

/// What is installed where no Python has it.
const PYTORCH: [&str; 2] = ["torch==2.15.0", "numpy"];

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Compare {
    /// Arguments of python/bench/cpu.py: --csv FILE, --only PART, --seconds NUMBER, --threads N, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

impl Compare {
    /// Builds warpfold's side and runs the comparison.
    pub fn run(&self) -> Result<()> {
        let python = python_with_pytorch()?;
        run(&mut cargo(["build", "--release", "--quiet", "--package", "compare"]))?;
        let mut compare = Command::new(python);
        // Files are named from where the user is.
        compare.arg(root().join("python/bench/cpu.py")).arg(target().join("release/compare")).args(&self.further);
        println!("$ {}", typed(&compare));
        run(&mut compare)
    }
}

/// The `python3` of the path if it has PyTorch, else one of our own, in the user's cache: it outlives `target/`.
fn python_with_pytorch() -> Result<PathBuf> {
    let has_pytorch = |python: &Path| capture(Command::new(python).args(["-c", "import torch"])).is_ok();
    let of_path = PathBuf::from("python3");
    if has_pytorch(&of_path) {
        return Ok(of_path);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let folder = cache.context("neither XDG_CACHE_HOME nor HOME says where to keep PyTorch")?.join("warpfold/pytorch");
    let python = folder.join("bin/python3");
    if has_pytorch(&python) {
        return Ok(python);
    }
    let what = format!("Installing {} (5 GB on disk) into {}", PYTORCH[0], shown(&folder));
    progress::during(&what, |_| {
        capture(Command::new(python_with_pip()?).args(["-m", "venv"]).arg(&folder))
            .context("python3 cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]).args(PYTORCH);
        capture(&mut pip).context("pip could not install PyTorch; its own words tell why")
    })?;
    Ok(python)
}
