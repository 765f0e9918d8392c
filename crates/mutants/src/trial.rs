//! Runs a kernel's text through its cases and says what gives it away.

use std::cell::Cell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};

use anyhow::{Context, Result};
use warpfold::emulator::{Checks, Completion, Counters, EmulatorBuilder, Limits, Schedule, counters_of};
use warpfold::variants::{Arch, Operation, RowFeatures, Tile, VARIANTS, Variant};
use warpfold::{DType, Device, GpuTarget};

use crate::cases::{Case, cases};

/// A few thousand times what a block of a case needs. A mutant that loops without end stops here.
const BLOCK_INSTRUCTIONS_MAX: u64 = 5_000_000;

/// Instructions that a mutant may need more than the original, in percent: another order of the code costs some.
const SLACK_PERCENT: u64 = 3;

/// A kernel without code: what runs in place of the operation's other kernels, so that a case that is planned onto another
/// one fails.
const NOTHING: &str = ".version 7.8\n.target sm_80\n.address_size 64\n";

/// A way to run a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    pub name: &'static str,
    schedule: Schedule,
    completion: Completion,
    seed: u64,
}

/// Every mutant runs in all of these ways until it is caught; the last two, in which some warps starve, are for kernels whose
/// warps have roles.
const WAYS: [Way; 6] = [
    Way { name: "in order", schedule: Schedule::InOrder, completion: Completion::Latest, seed: 0 },
    Way { name: "reverse", schedule: Schedule::Reverse, completion: Completion::Earliest, seed: 0 },
    Way { name: "random", schedule: Schedule::Random, completion: Completion::Random, seed: 1 },
    Way { name: "diverged", schedule: Schedule::Diverged, completion: Completion::Latest, seed: 2 },
    Way { name: "starved filling", schedule: Schedule::LowestStarved, completion: Completion::Earliest, seed: 0 },
    Way { name: "starved computing", schedule: Schedule::HighestStarved, completion: Completion::Random, seed: 3 },
];

/// The ways to run a kernel in.
fn ways(variant: &Variant) -> &'static [Way] {
    if variant.arch == Arch::Sm90a { &WAYS } else { &WAYS[..4] }
}

/// Multiprocessors of the emulated GPU under attention: few, so that a persistent block does much of the work, and heads are worked
/// on in several sections.
const FEW_SMS: u32 = 2;

/// What gave a kernel away.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The emulator's reports: kind and source position of each.
    Hazards(Vec<(String, String)>),
    /// It did not come to an end.
    Endless,
    /// The verdict of the oracle.
    Numbers(String),
    /// A counter over the original's.
    Counters(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Hazards(reports) => match reports.first() {
                Some((kind, place)) => write!(f, "{kind} at {place}"),
                None => f.write_str("a hazard"),
            },
            Finding::Endless => f.write_str("it does not end"),
            Finding::Numbers(detail) => write!(f, "numbers: {detail}"),
            Finding::Counters(detail) => write!(f, "counters: {detail}"),
        }
    }
}

/// A finding, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Catch {
    pub finding: Finding,
    pub way: &'static str,
    pub case: &'static str,
}

/// A kernel's cases, and what the original costs in each.
pub struct Bench {
    pub variant: &'static Variant,
    cases: Vec<Case>,
    costs: Vec<Counters>,
}

impl Bench {
    /// # Errors
    /// There is no such kernel.
    pub fn new(name: &str) -> Result<Bench> {
        let variant = VARIANTS.iter().find(|variant| variant.name() == name);
        let variant = variant.with_context(|| format!("src/variants.rs has no row {name}"))?;
        Ok(Bench { variant, cases: cases(variant), costs: Vec::new() })
    }

    /// Runs the original everywhere and keeps what it costs. Nothing may be found.
    pub fn calibrate(&mut self, text: &str) -> Result<Option<Catch>> {
        let (found, costs) = self.run(text, Checks::ALL)?;
        if found.is_some() {
            return Ok(found);
        }
        self.costs = costs;
        // Once a block each: rows of f32 accumulators are staged two lanes a bank, and the products read whole rows; rows
        // that are cut at different places store their sums into the same banks.
        let is_ragged = !matches!(self.variant.tile, Tile::Rows { features: RowFeatures::Whole, .. });
        if self.variant.dtype == DType::F32 || (self.variant.operation == Operation::NormBackward && is_ragged) {
            return Ok(None);
        }
        let conflict = self.costs.iter().zip(&self.cases).find_map(|(cost, case)| {
            let (kind, wavefronts) = cost.shared.iter().find(|(_, wavefronts)| wavefronts.actual > wavefronts.ideal)?;
            let detail =
                format!("{kind:?} of shared memory: {} wavefronts, ideal {}", wavefronts.actual, wavefronts.ideal);
            Some(Catch { finding: Finding::Counters(detail), way: WAYS[0].name, case: case.why })
        });
        Ok(conflict)
    }

    /// Runs a mutant until something is found.
    pub fn run_mutant(&self, text: &str) -> Result<Option<Catch>> {
        let (found, costs) = self.run(text, Checks::ALL)?;
        if found.is_some() {
            return Ok(found);
        }
        let over = costs.iter().zip(&self.costs).zip(&self.cases).find_map(|((cost, original), case)| {
            let detail = over_budget(original, cost)?;
            Some(Catch { finding: Finding::Counters(detail), way: WAYS[0].name, case: case.why })
        });
        Ok(over)
    }

    /// What is found when nobody looks for races and for reads of unwritten memory.
    pub fn run_unchecked(&self, text: &str) -> Result<Option<Catch>> {
        Ok(self.run(text, Checks::NONE)?.0)
    }

    /// The first finding, or the costs of all cases in the first way.
    fn run(&self, text: &str, checks: Checks) -> Result<(Option<Catch>, Vec<Counters>)> {
        let mut costs = Vec::new();
        for way in ways(self.variant) {
            let device = device(self.variant, text, *way, checks)?;
            for case in &self.cases {
                let panicked = quietly(|| (case.check)(&device));
                if let Err(message) = panicked {
                    let finding = understand(&message)?;
                    return Ok((Some(Catch { finding, way: way.name, case: case.why }), costs));
                }
                if *way == WAYS[0] {
                    let cost = counters_of(&device, &self.variant.name());
                    costs.push(cost.context("a case does not launch the kernel")?);
                }
            }
        }
        Ok((None, costs))
    }
}

/// An emulator with this text in place of a kernel, and without the operation's others.
fn device(variant: &Variant, text: &str, way: Way, checks: Checks) -> Result<Device> {
    let mut limits = Limits::default();
    limits.block_instructions = BLOCK_INSTRUCTIONS_MAX;
    let mut builder = EmulatorBuilder::new(variant.arch)
        .schedule(way.schedule)
        .completion(way.completion)
        .seed(way.seed)
        .checks(checks)
        .limits(limits)
        .threads(1);
    let gpu = match variant.tile {
        Tile::AttentionHopper { .. } => Some(GpuTarget::H100),
        Tile::Attention { .. } => Some(GpuTarget::A100),
        _ => None,
    };
    if let Some(gpu) = gpu {
        builder = builder.target(GpuTarget { num_sms: FEW_SMS, ..gpu });
    }
    for other in VARIANTS.iter().filter(|other| other.operation == variant.operation) {
        builder = builder.replace_kernel(other.name(), if other == variant { text } else { NOTHING });
    }
    Ok(builder.build()?)
}

/// What costs more than in the original.
fn over_budget(original: &Counters, cost: &Counters) -> Option<String> {
    for (kind, wavefronts) in &cost.shared {
        let before = original.shared.get(kind).copied().unwrap_or_default();
        if wavefronts.actual - wavefronts.ideal > before.actual - before.ideal {
            return Some(format!(
                "{kind:?} of shared memory: {} wavefronts, ideal {}",
                wavefronts.actual, wavefronts.ideal
            ));
        }
        if wavefronts.actual > before.actual {
            let (now, before) = (wavefronts.actual, before.actual);
            return Some(format!("{kind:?} of shared memory: {now} wavefronts, originally {before}"));
        }
    }
    for (kind, sectors) in &cost.global {
        let before = original.global.get(kind).copied().unwrap_or_default();
        if sectors.actual > before.actual {
            let (now, before) = (sectors.actual, before.actual);
            return Some(format!("{kind:?} of global memory: {now} sectors, originally {before}"));
        }
    }
    if cost.barrier_arrivals > original.barrier_arrivals {
        let (now, before) = (cost.barrier_arrivals, original.barrier_arrivals);
        return Some(format!("{now} arrivals at barriers, originally {before}"));
    }
    let (now, before) = (cost.warp_instructions, original.warp_instructions);
    (now * 100 > before * (100 + SLACK_PERCENT)).then(|| format!("{now} warp instructions, originally {before}"))
}

thread_local! {
    /// Whether this thread expects panics, and where the last one came from.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static IN_TESTS: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this file is the verdict of a check.
fn is_verdict(file: &str) -> bool {
    file.contains("tests/common") || file.ends_with("mutants/src/cases.rs")
}

/// Panics of a case are results here: only others are to be shown.
pub fn hush_expected_panics() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if QUIET.get() {
            IN_TESTS.set(info.location().is_some_and(|place| is_verdict(place.file())));
        } else {
            shown(info);
        }
    }));
}

/// Runs a check; the message of its panic, with a mark where it came from elsewhere than the shared tests.
fn quietly(check: impl FnOnce()) -> Result<(), String> {
    QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(check));
    QUIET.set(false);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        if IN_TESTS.get() { text } else { format!("{FOREIGN}{text}") }
    })
}

/// Marks a panic that is not a verdict of the tests.
const FOREIGN: &str = "a panic outside of the tests: ";

/// Reads what a failed test says: `why on device: error`.
fn understand(message: &str) -> Result<Finding> {
    if message.starts_with(FOREIGN) {
        anyhow::bail!("{message}");
    }
    let Some((_, report)) = message.split_once("emulator: ") else {
        // The difference, without the tolerance and the description of the case that follow.
        let verdict = message.lines().next().unwrap_or_default();
        let verdict = verdict.split_once(": ").map_or(verdict, |(_, verdict)| verdict);
        let words = verdict.split(';').next().unwrap_or(verdict).split(' ').map(short);
        return Ok(Finding::Numbers(words.collect::<Vec<_>>().join(" ")));
    };
    if report.starts_with("limit reached") {
        return Ok(Finding::Endless);
    }
    let hazards: Vec<(String, String)> = report.lines().filter_map(hazard).collect();
    anyhow::ensure!(
        !hazards.is_empty(),
        "the emulator refuses the kernel: {}",
        report.lines().next().unwrap_or_default()
    );
    Ok(Finding::Hazards(hazards))
}

/// A number with four digits, another word as it is.
fn short(word: &str) -> String {
    match word.parse::<f64>() {
        Ok(value) if word.contains('.') => format!("{value:.3e}"),
        _ => word.to_string(),
    }
}

/// `kind: kernel NAME, FILE:LINE, inlined at FILE:LINE (`opcode`), block ...` to the kind and the place below `kernels/`:
/// of the wrapped instructions in lib/ptx.cuh, and of the toolkit's own functions, the place that uses them.
fn hazard(line: &str) -> Option<(String, String)> {
    let (kind, rest) = line.split_once(": kernel ")?;
    let places = rest.split(", ").skip(1).take_while(|part| !part.starts_with("block "));
    let places = places.map(|part| part.trim_start_matches("inlined at ").split(" (").next().unwrap_or(part));
    let places: Vec<&str> = places.map(|place| place.trim_start_matches("kernels/")).collect();
    let is_wrapper = |place: &&&str| place.starts_with("lib/ptx.cuh") || place.starts_with("cuda/");
    let place = places.iter().find(|place| !is_wrapper(place)).or(places.first())?;
    Some((kind.to_string(), place.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_understood() {
        let message = "why on emulator:sm_80: emulator: 2 hazard(s)\n\
            shared memory race: kernel k, kernels/lib/ptx.cuh:28, inlined at kernels/lib/reduce.cuh:60, inlined at \
            kernels/softmax_forward.cu:9 (`ld.shared.f32`), block [0, 0, 0], warp 1, lane 0: read at shared address 0x0\n\
            out of bounds: kernel k, kernels/softmax_forward.cu:70 (`st.global.v4.b32`), block [0, 0, 0], warp 1: write\n\
            RowsAttempt { shape: [1] }";
        let expected = [("shared memory race", "lib/reduce.cuh:60"), ("out of bounds", "softmax_forward.cu:70")];
        let expected = expected.map(|(kind, place)| (kind.to_string(), place.to_string()));
        assert_eq!(understand(message).expect("hazards"), Finding::Hazards(expected.to_vec()));
    }

    #[test]
    fn verdicts_are_shortened() {
        let message = "why on emulator:sm_80: output at [0, 1]: 2.12345678e0 instead of 1e0; the difference 1 is over 0\nAttempt {}";
        let expected = Finding::Numbers("output at [0, 1]: 2.123e0 instead of 1e0".to_string());
        assert_eq!(understand(message).expect("a verdict"), expected);
    }

    #[test]
    fn other_failures_are_errors() {
        assert!(understand("why on emulator:sm_80: emulator: no kernel `x` in the module").is_err());
        assert!(understand(&format!("{FOREIGN}index out of bounds")).is_err());
        let endless = understand("why on emulator:sm_80: emulator: limit reached: warp instructions (limit 5)");
        assert_eq!(endless.expect("a limit"), Finding::Endless);
    }
}
