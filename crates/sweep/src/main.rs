//! Candidates for the table of attention kernels, each checked against the oracle and timed on a GPU, in one run.
//! `cargo xtask sweep` builds them and runs this; `cargo xtask bundle` packs it for a machine without Rust.
//!
//! On the emulator each candidate is checked on a small problem and nothing is timed.

mod problem;
mod report;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use warpfold::variants::{self, Features, Tile, Variant};
use warpfold::{DType, Device, Target};

use problem::{Inputs, Problem, Trial};
use report::Measurement;
use timing::Timer;

#[derive(Parser)]
#[command(bin_name = "cargo xtask sweep", about = "Times candidates for the table of kernels")]
struct Arguments {
    /// Where to run: cuda:0, or emulator:sm_90a, which checks and times nothing
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// Only kernels whose name contains this
    #[arg(long, value_name = "PART")]
    name: Option<String>,
    /// Also write the figures to a file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write the names of the best kernels to a file, separated by commas, as `warpfold bench --kernels` takes them
    #[arg(long, value_name = "FILE")]
    picks: Option<PathBuf>,
    /// Time of each kernel and problem, in milliseconds
    #[arg(long, value_name = "NUMBER", default_value_t = 200.0)]
    budget_ms: f64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let is_emulated = arguments.device.starts_with("emulator");
    let (device, timer) = if is_emulated {
        (arguments.device.parse::<Device>()?, None)
    } else {
        match Timer::open(&arguments.device) {
            Ok((device, timer)) => (device, Some(timer)),
            // A machine without a GPU is no failure of the kernels.
            Err(error) => {
                println!("skipped: nothing can be timed on {}: {error}", arguments.device);
                return Ok(());
            }
        }
    };
    let Target::Gpu(gpu) = device.target() else { bail!("{device} runs no kernels") };
    let is_wanted = |row: &&Variant| arguments.name.as_ref().is_none_or(|part| row.name().contains(part.as_str()));
    let capability = gpu.compute_capability;
    let runs_here = |row: &&Variant| row.arch.runs_on(capability.major, capability.minor);
    let rows: Vec<&'static Variant> = candidates().into_iter().filter(is_wanted).filter(runs_here).collect();
    if rows.is_empty() {
        println!("skipped: no candidate runs on compute capability {capability}");
        return Ok(());
    }
    check_built(&rows)?;
    println!("{} kernels on {device}, {}", rows.len(), device.target());

    let mut measurements = Vec::new();
    let mut num_failed = 0;
    for head_dim in [64, 128, 256] {
        let of_dim: Vec<&Variant> = rows.iter().copied().filter(|row| head_dims(row) == (head_dim, head_dim)).collect();
        if of_dim.is_empty() {
            continue;
        }
        for problem in problems(head_dim as usize, is_emulated) {
            let inputs = Inputs::new(&device, &problem)?;
            for row in &of_dim {
                let trial = Trial::of_kernel(&problem, &device, row)?;
                // Times of wrong results are none.
                if let Err(error) = inputs.check(&trial) {
                    println!("{problem}  {}  WRONG: {error:#}", row.name());
                    num_failed += 1;
                    continue;
                }
                match &timer {
                    None => println!("{problem}  {}  agrees with the oracle", row.name()),
                    Some(timer) => {
                        let times_ms = inputs.time(&trial, timer, arguments.budget_ms)?;
                        let found = Measurement::new(&problem, row, trial.flops(), times_ms);
                        println!("{found}");
                        measurements.push(found);
                    }
                }
            }
        }
    }
    if timer.is_some() {
        print!("{}", report::text(&measurements));
        if let Some(file) = &arguments.csv {
            std::fs::write(file, report::csv(&measurements)).with_context(|| file.display().to_string())?;
        }
        if let Some(file) = &arguments.picks {
            let best = report::best(&measurements);
            let names: Vec<String> = best.iter().map(|pick| pick.row.name()).collect();
            std::fs::write(file, names.join(",")).with_context(|| file.display().to_string())?;
        }
    }
    if num_failed > 0 {
        bail!("{num_failed} results are not the oracle's");
    }
    Ok(())
}

/// The candidates, and the rows that they are to be better than.
fn candidates() -> Vec<&'static Variant> {
    let is_rival = |row: &&Variant| {
        row.dtype == DType::BF16
            && matches!(row.tile, Tile::AttentionHopper { features: Features::Plain, .. })
            && variants::sweep().any(|one| one.operation == row.operation && head_dims(one) == head_dims(row))
    };
    variants::VARIANTS.iter().filter(is_rival).chain(variants::sweep()).collect()
}

/// A build without the candidates is a mistake that a name alone does not explain.
fn check_built(rows: &[&Variant]) -> Result<()> {
    let kernels = warpfold::kernels();
    match rows.iter().map(|row| row.name()).find(|name| kernels.iter().all(|kernel| kernel.name != name)) {
        None => Ok(()),
        Some(name) => {
            bail!("this build has no kernel {name}: `cargo xtask sweep` builds the candidates (WARPFOLD_SWEEP=1)")
        }
    }
}

fn head_dims(row: &Variant) -> (u32, u32) {
    match row.tile {
        Tile::AttentionHopper { head_dim, head_dim_v, .. } => (head_dim, head_dim_v),
        _ => (0, 0),
    }
}

/// What is measured: 16,384 tokens of 2048 columns, as long and short sequences, with a causal mask and without. On the emulator a
/// few tiles, of rows and keys that fill none.
fn problems(head_dim: usize, is_emulated: bool) -> Vec<Problem> {
    let problem = |shape, is_causal| Problem { shape, head_dim, is_causal };
    if is_emulated {
        // Several pieces of work a block, the last one partial; two query heads a key head.
        return [false, true].map(|is_causal| problem([1, 2, 1, 500, 450], is_causal)).to_vec();
    }
    let of_len = |len| [16384 / len, 2048 / head_dim, 2048 / head_dim, len, len];
    [(8192, false), (2048, true), (512, false), (16384, true)]
        .map(|(len, is_causal)| problem(of_len(len), is_causal))
        .to_vec()
}
