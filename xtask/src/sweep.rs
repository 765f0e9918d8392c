//! `cargo xtask sweep`: crates/sweep with the candidates for the table of kernels compiled in.

use anyhow::Result;
use clap::Args;

use crate::workspace::{cargo, run, typed};

/// What a build needs to be told to hold the candidates.
pub const CANDIDATES: (&str, &str) = ("WARPFOLD_SWEEP", "1");

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Sweep {
    /// Arguments of `sweep`: --device DEVICE, --name PART, --csv FILE, --budget-ms NUMBER, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

impl Sweep {
    /// Times the candidates on a GPU, or checks them on the emulator.
    pub fn run(&self) -> Result<()> {
        crate::toolkit()?;
        let mut sweep = cargo(["run", "--release", "--quiet", "--package", "sweep", "--features", "emulator", "--"]);
        // Files are named from where the user is.
        sweep.args(&self.further).envs([CANDIDATES]).current_dir(std::env::current_dir()?);
        println!("$ {}={} {}", CANDIDATES.0, CANDIDATES.1, typed(&sweep));
        run(&mut sweep)
    }
}
