//! `cargo xtask mutants`: crates/mutants with the CUDA compiler that it needs.

use anyhow::Result;
use clap::Args;

use crate::workspace::{cargo, run, typed};

#[derive(Args)]
pub struct Mutants {
    /// Arguments of `mutants`: --fast, --only NAME, --list
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

impl Mutants {
    /// The subset that runs with every test.
    pub fn fast() -> Mutants {
        Mutants { further: vec!["--fast".to_string()] }
    }

    /// Seeds the bugs and fails where one stays unnoticed.
    pub fn run(&self) -> Result<()> {
        crate::toolkit()?;
        let mut mutants = cargo(["run", "--quiet", "--package", "mutants", "--"]);
        mutants.args(&self.further);
        println!("$ {}", typed(&mutants));
        run(&mut mutants)
    }
}
