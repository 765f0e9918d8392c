//! `cargo xtask tables`: the README's tables and plots of results, from the records in benches/record.

mod bench;
mod blocks;
mod compare;
mod h100;
mod history;
mod plots;
mod record;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace::root;
use blocks::Block;
use plots::Plot;

const README: &str = "README.md";
/// The folder of the CPU that the README tells about.
const CPU: &str = "epyc-avx2";
/// That of a CPU on which PyTorch multiplies bf16 by tiles.
const XEON: &str = "xeon-amx";

#[derive(Args)]
pub struct Tables {
    /// Write nothing; fail where the README or a plot is not what the records give
    #[arg(long)]
    check: bool,
}

impl Tables {
    /// As `--check`.
    pub fn checking() -> Tables {
        Tables { check: true }
    }

    /// Checks the records, and writes or compares what follows from them.
    pub fn run(&self) -> Result<()> {
        run_in(root(), self.check, &plots::draw)
    }
}

/// `draw` makes the plots of the record at a path.
fn run_in(root: &Path, check: bool, draw: &dyn Fn(&Path) -> Result<Vec<Plot>>) -> Result<()> {
    let records = record::read_all(root)?;
    history::check(root)?;
    let of_bench = bench::newest(&records, CPU);
    let plots = match of_bench {
        Some(record) => draw(&root.join(&record.path))?,
        None => Vec::new(),
    };
    let blocks = [
        Block { name: "h100-attention", text: h100::attention(&records)? },
        Block { name: "h100-rows", text: h100::rows(&records)? },
        Block { name: "h100-other", text: h100::other(&records)? },
        Block { name: "cpu-compare", text: compare::block(&records, CPU, &|_| true)? },
        Block { name: "xeon-compare", text: compare::block(&records, XEON, &|_| true)? },
        Block { name: "cpu-bench", text: bench::block(of_bench, &plots)? },
    ];
    let path = root.join(README);
    let present = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let filled = blocks::fill(README, &present, &blocks)?;
    let docs = root.join("docs");
    let differences = [filled.differences, plots::differences(&docs, &plots)?].concat();
    if differences.is_empty() {
        println!("{README} and docs agree with the {} records in benches/record", records.len());
        return Ok(());
    }
    if check {
        bail!("not what the records give: run `cargo xtask tables`\n{}", differences.join("\n"));
    }
    if filled.text != present {
        fs::write(&path, filled.text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{README} written");
    }
    plots::write(&docs, &plots)
}

#[cfg(test)]
mod tests;
