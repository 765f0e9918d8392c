//! `warpfold check`: random problems on a device, held to the float64 oracle; what fails is shrunk and printed as a command.

mod difference;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use warpfold::emulator::{self, EmulatorBuilder, Limits, TensorCore};
use warpfold::variants::Arch;
use warpfold::{Device, Target};

use self::difference::Difference;
use self::trial::{Bench, Quiet};
use crate::Outcome;
use crate::recipes::{Case, Operation, is_cpu};
use crate::terminal::{self, Progress, Usage};

/// Lines of a failure that are shown without `--explain`: the emulator may have dozens of reports of one cause.
const FAILURE_LINES: usize = 6;

/// Instructions of a block of somebody else's kernel: thousands of times what these cases need, so that one that does not end is
/// found out in seconds.
const BLOCK_INSTRUCTIONS_MAX: u64 = 20_000_000;

#[derive(Args)]
pub struct Check {
    /// What to check: cpu, cpu:avx2 (or another instruction set), cuda:0, emulator:sm_80, emulator:sm_90a, or best
    #[arg(long, default_value = "best")]
    device: String,
    /// What it is to compute: several with commas, or the option repeated [default: all]
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Operation::ALL.map(Operation::name)))]
    op: Vec<String>,
    /// Random cases of each operation
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// Where the random cases start: the same seed draws the same cases
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How long a failing case may be made smaller
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    shrink: u32,
    /// Say how each failing case runs; without a failure, which kernels ran how often
    #[arg(long)]
    explain: bool,
    /// Compare with another device too, bit by bit. Both are held to the oracle
    #[arg(long, value_name = "DEVICE")]
    against: Option<String>,
    /// Let the emulator run this PTX in place of an embedded kernel
    #[arg(long, value_name = "KERNEL=FILE")]
    replace: Vec<String>,
    /// Write the PTX of an embedded kernel to a file, to be edited for --replace, and check nothing
    #[arg(long, value_name = "KERNEL=FILE", conflicts_with_all = ["replace", "case", "against"])]
    extract: Vec<String>,
    /// Run this one case, as a failure prints it, of the one operation of --op
    #[arg(long, value_name = "JSON", conflicts_with_all = ["cases", "seed", "shrink"])]
    case: Option<String>,
}

impl Check {
    pub fn run(&self) -> anyhow::Result<Outcome> {
        if !self.extract.is_empty() {
            return self.extract();
        }
        let operations = self.operations();
        let case = self.case.as_deref().map(|json| read_case(&operations, json)).transpose()?;
        let bench = self.bench()?;
        let _quiet = Quiet::new();
        let outcome = match case {
            Some(case) => self.check_one(&bench, &case),
            None => self.check_random(&bench, &operations),
        };
        for (name, _) in self.replacements()? {
            if !emulator::kernel_runs(&bench.device).contains_key(name) {
                eprintln!("note: no case ran {name}, which --replace names");
            }
        }
        Ok(outcome)
    }

    /// In their usual order, each once.
    fn operations(&self) -> Vec<Operation> {
        let is_wanted =
            |operation: &Operation| self.op.is_empty() || self.op.iter().any(|name| name == operation.name());
        Operation::ALL.into_iter().filter(is_wanted).collect()
    }

    fn extract(&self) -> anyhow::Result<Outcome> {
        for option in &self.extract {
            let (name, path) = kernel_and_file("--extract", option)?;
            fs::write(path, emulator::kernel_ptx(name)?).with_context(|| format!("cannot write {path}"))?;
            println!("{path}: the PTX of {name}");
        }
        Ok(Outcome::Success)
    }

    fn replacements(&self) -> Result<Vec<(&str, &str)>, Usage> {
        self.replace.iter().map(|option| kernel_and_file("--replace", option)).collect()
    }

    /// The devices, set up.
    fn bench(&self) -> anyhow::Result<Bench> {
        let device = terminal::device(&self.device)?;
        let peer = self.against.as_deref().map(terminal::device).transpose()?;
        let mut texts = Vec::new();
        if !self.replace.is_empty() && emulated(&device).is_none() {
            return Err(Usage(format!(
                "--replace needs an emulator, such as --device emulator:sm_80; the device is {device}"
            ))
            .into());
        }
        for (name, path) in self.replacements()? {
            let text =
                fs::read_to_string(path).map_err(|error| Usage(format!("--replace: cannot read {path}: {error}")))?;
            if !text.split(".entry").skip(1).any(|rest| rest.trim_start().starts_with(&format!("{name}("))) {
                return Err(Usage(format!("--replace: {path} has no .entry {name}")).into());
            }
            texts.push((name, text));
        }
        Ok(Bench {
            device: prepared(&device, peer.as_ref(), &texts)?,
            peer: peer.map(|peer| prepared(&peer, Some(&device), &[])).transpose()?,
        })
    }

    fn check_one(&self, bench: &Bench, case: &Case) -> Outcome {
        let result = bench.check(case);
        let on = &bench.device;
        if let Err(reason) = &result {
            println!("{} fails on {on}:", case.operation());
            self.print_failure(bench, case, reason);
            return Outcome::Wrong;
        }
        self.print_problem(bench, case, self.explain);
        if let Ok(passed) = result {
            println!(
                "{} passes on {on}: the worst error is {} of what is allowed",
                case.operation(),
                percent(passed.error_share)
            );
            passed.difference.iter().for_each(|difference| println!("{difference}"));
        }
        Outcome::Success
    }

    fn check_random(&self, bench: &Bench, operations: &[Operation]) -> Outcome {
        let started = Instant::now();
        let tallies: Vec<Tally> = operations.iter().map(|operation| self.check_operation(bench, *operation)).collect();
        let against = bench.peer.as_ref().map_or(String::new(), |peer| format!(" and {peer}"));
        println!(
            "{}{against} against the float64 oracle, seed {}, {}",
            bench.device,
            self.seed,
            seconds(started.elapsed())
        );
        println!(
            "{:<20} {:>6} {:>7} {:>9} {:>12} {:>8}",
            "operation", "cases", "passed", "time", "worst error", "kernels"
        );
        for tally in &tallies {
            let kernels = if is_cpu(&bench.device) { "-".to_string() } else { tally.kernels.len().to_string() };
            println!(
                "{:<20} {:>6} {:>7} {:>9} {:>12} {:>8}",
                tally.operation.name(),
                tally.cases(),
                tally.passed,
                seconds(tally.time),
                if tally.passed > 0 { percent(tally.error_share) } else { "-".to_string() },
                kernels
            );
        }
        println!("the worst error of what passed, as a share of what is allowed");
        for (tally, difference) in tallies.iter().filter_map(|tally| Some((tally, tally.difference.as_ref()?))) {
            println!("{}: {difference}", tally.operation);
        }
        if tallies.iter().any(|tally| tally.is_wrong) {
            return Outcome::Wrong;
        }
        if self.explain {
            for tally in tallies.iter().filter(|tally| !tally.kernels.is_empty()) {
                println!("{} ran", tally.operation);
                tally.kernels.iter().for_each(|(name, runs)| println!("{runs:>8} x {name}"));
            }
        }
        Outcome::Success
    }

    /// Runs the cases of an operation up to the first that fails, which is shrunk and printed.
    fn check_operation(&self, bench: &Bench, operation: Operation) -> Tally {
        let started = Instant::now();
        let config = Config {
            cases: self.cases,
            failure_persistence: None,
            max_shrink_time: self.shrink * 1000,
            max_shrink_iters: u32::MAX,
            // Shrinking draws most values more than once.
            result_cache: proptest::test_runner::basic_result_cache,
            ..Config::default()
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8] = operation as u8;
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let on_cpu = is_cpu(&bench.device) && bench.peer.as_ref().is_none_or(is_cpu);
        let runs_before = emulator::kernel_runs(&bench.device);
        let progress = std::cell::RefCell::new(Progress::new(operation.name(), u64::from(self.cases)));
        let tally = std::cell::RefCell::new(Tally::new(operation));
        let result = runner.run(&operation.cases(on_cpu), |case| {
            let mut tally = tally.borrow_mut();
            let next = if tally.is_wrong { format!("shrinking, {} tries", tally.tries) } else { String::new() };
            progress.borrow_mut().set(u64::from(tally.passed), &next);
            tally.add(bench, &case)
        });
        let mut tally = tally.into_inner();
        let progress = progress.into_inner();
        // What the emulator ran is known exactly.
        for (name, runs) in emulator::kernel_runs(&bench.device) {
            let runs = runs - runs_before.get(&name).copied().unwrap_or(0);
            if runs > 0 {
                tally.kernels.insert(name, runs);
            }
        }
        drop(progress);
        match result {
            Ok(()) => (),
            Err(TestError::Fail(reason, case)) => {
                println!(
                    "{operation} fails on {}, in case {} of {}; after {} more tries the smallest that does is",
                    bench.device,
                    tally.cases(),
                    self.cases,
                    tally.tries
                );
                self.print_failure(bench, &case, reason.message());
            }
            Err(TestError::Abort(reason)) => {
                tally.is_wrong = true;
                println!("{operation}: no cases could be drawn: {reason}");
            }
        }
        tally.time = started.elapsed();
        tally
    }

    /// What failed, why, and the command that shows it again.
    fn print_failure(&self, bench: &Bench, case: &Case, reason: &str) {
        self.print_problem(bench, case, self.explain);
        let lines = reason.lines().count();
        let shown = if self.explain { lines } else { FAILURE_LINES };
        reason.lines().take(shown).for_each(|line| println!("  {line}"));
        if lines > shown {
            println!("  ... and {} more lines with --explain", lines - shown);
        }
        println!("{}", self.command(bench, case));
    }

    /// A case in words, with the kernels it is planned onto or with all of the plan.
    fn print_problem(&self, bench: &Bench, case: &Case, with_plan: bool) {
        // A case that cannot be planned says why when it runs.
        let Some(Ok(plans)) = bench.plans(case) else { return };
        if with_plan {
            plans.iter().flat_map(|plan| plan.text.lines()).for_each(|line| println!("  {line}"));
            return;
        }
        if let Some(plan) = plans.first() {
            plan.problem().lines().for_each(|line| println!("  {line}"));
        }
        let kernels: Vec<&str> = plans.iter().flat_map(|plan| &plan.kernels).map(String::as_str).collect();
        if !kernels.is_empty() {
            println!("  on {}", kernels.join(", "));
        }
    }

    /// The command line that runs one case as it was run here.
    fn command(&self, bench: &Bench, case: &Case) -> String {
        let mut words = vec!["warpfold".to_string(), "check".to_string()];
        let mut option = |name: &str, value: &str| words.extend([name.to_string(), quoted(value)]);
        option("--device", &bench.device.to_string());
        if let Some(peer) = &bench.peer {
            option("--against", &peer.to_string());
        }
        self.replace.iter().for_each(|replacement| option("--replace", replacement));
        option("--op", case.operation().name());
        option("--case", &case.to_json());
        words.join(" ")
    }
}

/// What became of an operation's cases.
struct Tally {
    operation: Operation,
    passed: u32,
    /// Runs of cases after the first failure, to make it smaller.
    tries: u32,
    is_wrong: bool,
    error_share: f64,
    kernels: BTreeMap<String, u64>,
    difference: Option<Difference>,
    time: Duration,
}

impl Tally {
    fn new(operation: Operation) -> Tally {
        Tally {
            operation,
            passed: 0,
            tries: 0,
            is_wrong: false,
            error_share: 0.0,
            kernels: BTreeMap::new(),
            difference: None,
            time: Duration::ZERO,
        }
    }

    fn cases(&self) -> u32 {
        self.passed + u32::from(self.is_wrong)
    }

    /// Runs a case: one of those that were asked for, or one of those that are tried to make a failure smaller.
    fn add(&mut self, bench: &Bench, case: &Case) -> Result<(), proptest::test_runner::TestCaseError> {
        let result = bench.check(case);
        if self.is_wrong {
            self.tries += 1;
            return result.map(drop).map_err(proptest::test_runner::TestCaseError::fail);
        }
        match result {
            Ok(passed) => {
                self.passed += 1;
                self.error_share = self.error_share.max(passed.error_share);
                if let Some(difference) = passed.difference {
                    self.difference.get_or_insert_default().add(difference);
                }
                if emulated(&bench.device).is_none() && !is_cpu(&bench.device) {
                    let plans = bench.plans(case).and_then(Result::ok).unwrap_or_default();
                    for name in plans.into_iter().flat_map(|plan| plan.kernels) {
                        *self.kernels.entry(name).or_default() += 1;
                    }
                }
                Ok(())
            }
            Err(reason) => {
                self.is_wrong = true;
                Err(proptest::test_runner::TestCaseError::fail(reason))
            }
        }
    }
}

fn read_case(operations: &[Operation], json: &str) -> Result<Case, Usage> {
    let [operation] = operations else {
        let names: Vec<&str> = operations.iter().map(|operation| operation.name()).collect();
        return Err(Usage(format!("--case is of one operation: give one with --op, of {}", names.join(", "))));
    };
    Case::from_json(*operation, json)
        .map_err(|reason| Usage(format!("--case {json} is no case of {operation}: {reason}")))
}

/// Splits `KERNEL=FILE` and makes sure that there is such a kernel.
fn kernel_and_file<'a>(option: &str, value: &'a str) -> Result<(&'a str, &'a str), Usage> {
    let Some((name, path)) = value.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()) else {
        return Err(Usage(format!("{option} {value}: write KERNEL=FILE")));
    };
    let kernels = warpfold::kernels();
    if kernels.iter().any(|kernel| kernel.name == name) {
        return Ok((name, path));
    }
    let mut near: Vec<(usize, &str)> =
        kernels.iter().map(|kernel| (strsim::damerau_levenshtein(kernel.name, name), kernel.name)).collect();
    near.sort();
    let near: Vec<&str> = near.into_iter().take(3).map(|(_, name)| name).collect();
    let hint = if near.is_empty() { "it has none".to_string() } else { format!("near are {}", near.join(", ")) };
    Err(Usage(format!("{option}: this build has no kernel {name}; {hint}")))
}

/// What an emulator device emulates.
fn emulated(device: &Device) -> Option<Arch> {
    let name = device.to_string();
    Arch::ALL.into_iter().find(|arch| name == format!("emulator:{}", arch.name()))
}

/// The device with other kernels. An emulator that is compared with another device adds up as tensor cores do, and plans for the
/// very GPU that it is compared with.
fn prepared(device: &Device, peer: Option<&Device>, texts: &[(&str, String)]) -> anyhow::Result<Device> {
    let Some(arch) = emulated(device).filter(|_| peer.is_some() || !texts.is_empty()) else {
        return Ok(device.clone());
    };
    let mut builder = EmulatorBuilder::new(arch);
    if let Some(peer) = peer {
        builder = builder.tensor_core(TensorCore::Aligned);
        if let (None, Target::Gpu(gpu)) = (emulated(peer), peer.target()) {
            let is_hopper = gpu.compute_capability.major == 9;
            if is_hopper == (arch == Arch::Sm90a) {
                builder = builder.target(gpu);
            }
        }
    }
    if !texts.is_empty() {
        let mut limits = Limits::default();
        limits.block_instructions = BLOCK_INSTRUCTIONS_MAX;
        builder = builder.limits(limits);
    }
    for (name, text) in texts {
        builder = builder.replace_kernel(*name, text.as_str());
    }
    builder.build().map_err(|error| match error {
        warpfold::Error::Image { .. } => Usage(format!("--replace: {error}")).into(),
        error => error.into(),
    })
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_are_quoted_where_they_have_to_be() {
        assert_eq!(quoted("emulator:sm_80"), "emulator:sm_80");
        assert_eq!(quoted(r#"{"seed":1}"#), r#"'{"seed":1}'"#);
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn an_unknown_kernel_comes_with_near_names() {
        let Some(known) = warpfold::kernels().first().map(|kernel| kernel.name) else { return };
        let misspelt = format!("{}x=file", known);
        let Err(Usage(text)) = kernel_and_file("--replace", &misspelt) else { panic!("{misspelt} is known") };
        assert!(text.contains(&format!("near are {known}")), "{text}");
        assert!(kernel_and_file("--replace", known).is_err(), "without a file");
        assert_eq!(kernel_and_file("--replace", &format!("{known}=a=b")).ok(), Some((known, "a=b")));
    }
}
