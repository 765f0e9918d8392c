//! The command line: which devices there are, whether they compute what they should, how fast, and pictures of that.
//!
//! Exit codes: 0 all is well; 1 a result is wrong, or something failed; 2 the command line makes no sense; 3 the device that was
//! asked for cannot be used here.

mod bench;
mod check;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod devices;
mod plot;
#[path = "../../../tests/recipes/mod.rs"]
mod recipes;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Fused attention, softmax and layer norm: devices, differential checks, benchmarks, plots.
#[derive(Parser)]
#[command(name = "warpfold", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what warpfold can run on here, and what it would take where something is missing
    Devices(devices::Devices),
    /// Check a device with random problems against the float64 oracle, and shrink what fails to a small case
    Check(check::Check),
    /// Time the operations beside the machine's own ceilings, each checked against the oracle first
    Bench(Box<bench::Bench>),
    /// Draw records of `warpfold bench`: a roofline, bytes moved by row operations, rates over sizes
    Plot(plot::Plot),
}

/// How a command ended that came to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Success,
    /// A device's result is wrong.
    Wrong,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Devices(devices) => devices.run(),
        Command::Check(check) => check.run(),
        Command::Bench(bench) => bench.run(),
        Command::Plot(plot) => plot.run(),
    };
    match outcome {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(match () {
                () if error.is::<terminal::Usage>() => 2,
                () if error.is::<terminal::NoDevice>() => 3,
                () => 1,
            })
        }
    }
}
