//! The project's chores. `cargo xtask demo` and `cargo xtask test` need nothing before them but Rust, g++ and
//! Python 3 with pip: what is missing is downloaded into `target/`.

mod bindings;
mod budgets;
mod bundle;
mod compare;
mod demo;
mod mutants;
mod pip;
mod progress;
mod python;
mod sweep;
mod tables;
mod test;
mod weights;
mod workspace;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use workspace::{capture, shown};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The project's chores", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run a real sentence encoder on real text, check it against its reference, and draw its attention
    Demo(demo::Demo),
    /// Everything that has to hold before a change goes in: format, lints, documentation, all tests
    Test(test::Test),
    /// Seed bugs into copies of the kernels and see what catches each
    Mutants(mutants::Mutants),
    /// Show what the kernels cost: registers, occupancy, and the work of each unit in each loop
    Budgets(budgets::Budgets),
    /// Check and time candidates for the table of kernels: on a GPU, or without times on the emulator
    Sweep(sweep::Sweep),
    /// Time the Python package beside PyTorch, in turns and on the same inputs
    Compare(compare::Compare),
    /// Build the Python package: one wheel in target/wheels, kernels and emulator included
    Wheel,
    /// Install PyTorch into the user's cache, if no python3 has it, for the Python tests and the comparison
    Pytorch,
    /// Install the pinned CUDA compiler under target/toolkit
    Toolkit,
    /// Generate src/params.rs from kernels/lib/params.h
    Bindings {
        /// Write nothing; fail where the file differs
        #[arg(long)]
        check: bool,
    },
    /// Write the README's tables and plots of results from the records in benches/record
    Tables(tables::Tables),
    /// Install the weights and the tokenizer of all-MiniLM-L6-v2 under target/model
    Model,
    /// Make target/bundle: all GPU checks, for a machine with an NVIDIA driver and neither Rust nor network
    Bundle,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Demo(demo) => demo.run(),
        Chore::Test(test) => test.run(),
        Chore::Mutants(mutants) => mutants.run(),
        Chore::Budgets(budgets) => budgets.run(),
        Chore::Sweep(sweep) => sweep.run(),
        Chore::Compare(compare) => compare.run(),
        Chore::Wheel => python::wheel().map(drop),
        Chore::Pytorch => python::pytorch().map(|python| println!("{} has PyTorch", shown(&python))),
        Chore::Toolkit => toolkit(),
        Chore::Bindings { check } => bindings::run(check),
        Chore::Tables(tables) => tables.run(),
        Chore::Model => demo::model().map(|folder| println!("The model is in {}", shown(&folder))),
        Chore::Bundle => bundle::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            eprintln!("error: {}", causes.join("\n  because: "));
            ExitCode::FAILURE
        }
    }
}

/// Installs the compiler and says what it is.
fn toolkit() -> Result<()> {
    let folder = pip::TOOLKIT.install()?;
    let host_compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    capture(Command::new(&host_compiler).arg("--version"))
        .context("nvcc needs a C++ compiler: install g++ (Debian and Ubuntu: apt install g++), or name one in CXX")?;
    let nvcc = pip::find_file(&folder, "nvcc").context("the packages hold no nvcc")?;
    let version = String::from_utf8(capture(Command::new(&nvcc).arg("--version"))?.stdout)?;
    let release = version.lines().find(|line| line.contains("release")).unwrap_or_default();
    println!("{}: {release}", shown(&nvcc));
    Ok(())
}
