//! Seeds bugs into copies of the kernels, one at a time, and sees what catches each: a hazard report of the emulator, the
//! oracle, or a counter over the original's. `cargo xtask mutants` runs it.
//!
//! A bug that nothing catches is a hole in the tests or in the emulator, unless its entry proves that it changes nothing.

mod cases;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod compile;
mod list;
mod mutant;
#[path = "../../../build/ptx.rs"]
mod ptx;
mod report;
#[path = "../../../src/ptx.rs"]
mod text;
mod trial;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use compile::{Compiled, Compiler, is_same_code};
use mutant::{Expected, Mutant, Sources, read_sources};
use report::{Progress, seconds, table};
use trial::{Bench, Catch, Finding};

#[derive(Parser)]
#[command(bin_name = "cargo xtask mutants", about = "Bugs seeded into the kernels, and what catches each")]
struct Arguments {
    /// Only the subset that runs with every test
    #[arg(long)]
    fast: bool,
    /// Only mutants whose name contains this, or one of several parts between commas, with all that is reported of them
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Say what there is, and run nothing
    #[arg(long)]
    list: bool,
}

/// How a mutant fared on one kernel.
struct Outcome {
    kernel: &'static str,
    fate: Fate,
}

/// What became of a mutant.
enum Fate {
    Caught {
        catch: Catch,
        /// What is found without the checks for races and unwritten memory; `None` where that was not looked at.
        unchecked: Option<Option<Catch>>,
    },
    /// nvcc refuses it.
    Refused(String),
    /// nvcc makes the original's code of it.
    SameCode,
    Survived,
}

impl Outcome {
    /// Why this is not what the mutant's entry says.
    fn complaint(&self, expected: &Expected) -> Option<String> {
        let finding = match &self.fate {
            Fate::Caught { catch, .. } => &catch.finding,
            Fate::Refused(said) => return Some(format!("it does not compile: {said}")),
            Fate::SameCode | Fate::Survived => {
                let survived = !matches!(expected, Expected::Equivalent(_));
                return survived.then(|| "nothing caught it".to_string());
            }
        };
        match (expected, finding) {
            (Expected::Hazard(kinds), Finding::Hazards(reports)) => {
                let known = reports.iter().any(|(kind, _)| kinds.contains(&kind.as_str()));
                (!known).then(|| format!("another hazard was expected: {}", kinds.join(" or ")))
            }
            (Expected::Numbers, Finding::Numbers(_)) | (Expected::Counters, Finding::Counters(_)) => None,
            (Expected::Endless, Finding::Endless) => None,
            (Expected::Endless, _) => Some("it was expected not to end".to_string()),
            (Expected::Equivalent(proof), _) => Some(format!("it is said to change nothing: {proof}")),
            (Expected::Hazard(kinds), _) => Some(format!("a hazard was expected: {}", kinds.join(" or "))),
            (Expected::Numbers, _) => Some("wrong numbers were expected".to_string()),
            (Expected::Counters, _) => Some("counters were expected to tell".to_string()),
        }
    }
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
    let start = Instant::now();
    let mut mutants = list::mutants();
    mutants.retain(|mutant| !arguments.fast || mutant.fast);
    let is_wanted =
        |name: &str| arguments.only.as_ref().is_none_or(|parts| parts.split(',').any(|part| name.contains(part)));
    mutants.retain(|mutant| is_wanted(mutant.name));
    if mutants.is_empty() {
        bail!("no mutant has that name; --list shows them");
    }
    if arguments.list {
        for mutant in &mutants {
            println!("{}", report::entry(mutant));
        }
        return Ok(());
    }

    trial::hush_expected_panics();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies in a workspace");
    let sources = read_sources(workspace)?;
    // What does not apply any more is known before anything runs.
    let seeded = mutants.iter().map(|mutant| mutant.apply(&sources)).collect::<Result<Vec<Sources>>>()?;
    let compiler = Compiler::new(workspace.join("target/mutants"))?;

    let mut kernels: Vec<&'static str> = mutants.iter().flat_map(|mutant| mutant.variants).copied().collect();
    kernels.sort_unstable();
    kernels.dedup();
    let progress = Progress::new("the original kernels", kernels.len());
    let originals = in_parallel(&kernels, |kernel| {
        let original = original(kernel, &sources, &compiler)?;
        progress.step(kernel, "nothing is found");
        Ok(original)
    })?;
    progress.finish();
    let originals: BTreeMap<&str, Original> = kernels.iter().copied().zip(originals).collect();

    let progress = Progress::new("mutants", mutants.len());
    let work: Vec<(&Mutant, &Sources)> = mutants.iter().zip(&seeded).collect();
    let run_unchecked = !arguments.fast;
    let outcomes = in_parallel(&work, |(mutant, sources)| {
        let run = |kernel: &&'static str| {
            let fate = fate(mutant, sources, &originals[kernel], &compiler, run_unchecked)?;
            Ok(Outcome { kernel, fate })
        };
        let outcomes: Vec<Outcome> = mutant
            .variants
            .iter()
            .map(run)
            .collect::<Result<_>>()
            .with_context(|| format!("mutant {}", mutant.name))?;
        progress.step(mutant.name, &outcomes.iter().map(|outcome| outcome.fate.word()).collect::<Vec<_>>().join(", "));
        Ok(outcomes)
    })?;
    progress.finish();

    let rows: Vec<(&Mutant, &Outcome)> = mutants
        .iter()
        .zip(&outcomes)
        .flat_map(|(mutant, outcomes)| outcomes.iter().map(move |o| (mutant, o)))
        .collect();
    println!("{}", table(&rows));
    if arguments.only.is_some() {
        rows.iter().for_each(|(mutant, outcome)| println!("{}", report::details(mutant, outcome)));
    } else if !arguments.fast {
        compiler.forget_unused()?;
    }
    println!("{}", report::summary(&rows));
    println!("{} mutants in {}", mutants.len(), seconds(start.elapsed()));
    let failures: Vec<String> = rows
        .iter()
        .filter_map(|(mutant, outcome)| {
            let complaint = outcome.complaint(&mutant.expected)?;
            Some(format!("{} on {}: {complaint}", mutant.name, outcome.kernel))
        })
        .collect();
    if !failures.is_empty() {
        bail!("{} of {} mutants fared otherwise than they must:\n{}", failures.len(), rows.len(), failures.join("\n"));
    }
    Ok(())
}

/// A kernel as it is shipped.
struct Original {
    text: String,
    bench: Bench,
}

/// Compiles and measures a kernel as it is.
fn original(kernel: &str, sources: &Sources, compiler: &Compiler) -> Result<Original> {
    let mut bench = Bench::new(kernel)?;
    let text = match compiler.ptx(&format!("original-{kernel}"), sources, bench.variant)? {
        Compiled::Ptx(text) => text,
        Compiled::Refused(said) => bail!("{kernel} does not compile:\n{said}"),
    };
    if let Some(Catch { finding, way, case }) = bench.calibrate(&text)? {
        bail!("{kernel}, as it is, is not clean: {finding} (case: {case}; {way})");
    }
    Ok(Original { text, bench })
}

fn fate(
    mutant: &Mutant,
    sources: &Sources,
    original: &Original,
    compiler: &Compiler,
    run_unchecked: bool,
) -> Result<Fate> {
    let text = match compiler.ptx(mutant.name, sources, original.bench.variant)? {
        Compiled::Ptx(text) => text,
        Compiled::Refused(said) => {
            let first = said.lines().find(|line| line.contains("error")).unwrap_or_default();
            return Ok(Fate::Refused(first.to_string()));
        }
    };
    if is_same_code(&text, &original.text) {
        return Ok(Fate::SameCode);
    }
    let Some(catch) = original.bench.run_mutant(&text)? else { return Ok(Fate::Survived) };
    let unchecked = match (&catch.finding, run_unchecked) {
        (Finding::Hazards(_), true) => Some(original.bench.run_unchecked(&text)?),
        _ => None,
    };
    Ok(Fate::Caught { catch, unchecked })
}

/// Does the work for every item, two at a time: a compiler each is what a small machine bears.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let queue = Mutex::new(items.iter().enumerate());
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let worker = || {
        loop {
            let next = queue.lock().expect("no worker panics with the lock").next();
            let Some((index, item)) = next else { return };
            let result = work(item);
            let failed = result.is_err();
            results.lock().expect("no worker panics with the lock").push((index, result));
            if failed {
                // The other worker finds nothing left to do.
                queue.lock().expect("no worker panics with the lock").by_ref().for_each(drop);
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(2);
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(worker))));
    let mut results = results.into_inner().expect("no worker panics with the lock");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_applies_to_the_kernels_as_they_are() {
        let workspace =
            Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies in a workspace");
        let sources = read_sources(workspace).expect("the kernels are there");
        let mut failures = Vec::new();
        for mutant in list::mutants() {
            match mutant.apply(&sources) {
                Ok(seeded) => assert_ne!(seeded, sources, "{} changes nothing", mutant.name),
                Err(error) => failures.push(format!("{error:#}")),
            }
            for kernel in mutant.variants {
                Bench::new(kernel).unwrap_or_else(|error| panic!("{}: {error:#}", mutant.name));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = list::mutants().iter().map(|mutant| mutant.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
