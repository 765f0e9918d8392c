//! `cargo xtask budgets`: crates/budgets with the disassembler that it needs.

use anyhow::Result;
use clap::Args;

use crate::workspace::{cargo, run, typed};

#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Budgets {
    /// Arguments of `budgets`: a part of a NAME, --arch NUMBER, --cubin FILE, --peer FILE, --peer-name PART,
    /// --json FILE, --no-emulator, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

impl Budgets {
    /// Shows the tables.
    pub fn run(&self) -> Result<()> {
        crate::toolkit()?;
        let mut budgets = cargo(["run", "--quiet", "--package", "budgets", "--"]);
        // Files are named from where the user is.
        budgets.args(&self.further).current_dir(std::env::current_dir()?);
        println!("$ {}", typed(&budgets));
        run(&mut budgets)
    }
}
