//! `cargo xtask compare`: the Python package beside PyTorch, timed in turns by python/bench/compare.py.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::python;
use crate::workspace::{root, run, typed};

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Compare {
    /// Arguments of python/bench/compare.py: --device, --csv FILE, --plots FOLDER, --only PART, --seconds NUMBER, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

impl Compare {
    /// Builds the package and runs the comparison.
    pub fn run(&self) -> Result<()> {
        let (python, site) = python::package_for_pytorch()?;
        let mut compare = Command::new(python);
        // Files are named from where the user is.
        compare.arg(root().join("python/bench/compare.py")).args(&self.further).env("PYTHONPATH", site);
        println!("$ {}", typed(&compare));
        run(&mut compare)
    }
}
