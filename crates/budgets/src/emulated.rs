//! What a kernel's shared and global memory have to do, counted on the emulator.

use std::collections::BTreeMap;

use serde::Serialize;
use warpfold::variants::Variant;

use crate::problems;

/// What a kernel did.
#[derive(Debug, Serialize)]
pub struct Emulated {
    pub name: String,
    pub outcome: Outcome,
}

/// The counters of a run, or why there are none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ran(Traffic),
    NotRun(String),
}

#[derive(Debug, Serialize)]
pub struct Traffic {
    /// The problem, in words.
    pub problem: String,
    /// Elements of the rows, of a kernel that walks rows.
    pub elements: Option<u64>,
    pub warp_instructions: u64,
    /// Blocks that the kernel marks as rare (`pmevent`): how often a warp ran one.
    pub rare: u64,
    /// Passes through the shared memory's banks by kind of access, and what they would be without conflicts.
    pub shared_wavefronts: BTreeMap<String, Count>,
    /// Pieces of 32 bytes of global memory by kind of access, and what they would be if the same bytes lay together.
    pub global_sectors: BTreeMap<String, Count>,
}

/// What was needed, and what would be at best.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    pub actual: u64,
    pub ideal: u64,
}

impl Count {
    pub fn excess(&self) -> u64 {
        self.actual.saturating_sub(self.ideal)
    }
}

impl Traffic {
    fn new(run: problems::Run) -> Traffic {
        let problems::Run { problem, counters, elements } = run;
        // As the emulator names them: Load, LoadMatrix, AsyncCopy, ...
        let shared = counters.shared.iter().map(|(access, found)| (format!("{access:?}"), found.actual, found.ideal));
        let global = counters.global.iter().map(|(access, found)| (format!("{access:?}"), found.actual, found.ideal));
        let count = |(name, actual, ideal)| (name, Count { actual, ideal });
        Traffic {
            problem,
            elements,
            warp_instructions: counters.warp_instructions,
            rare: counters.instructions_like("pmevent"),
            shared_wavefronts: shared.map(count).collect(),
            global_sectors: global.map(count).collect(),
        }
    }
}

impl Traffic {
    /// Sectors of global memory, read and written. Atomics read and write; they count as writing.
    pub fn sectors(&self) -> [u64; 2] {
        let reads = |name: &str| name == "Load" || name == "AsyncCopy";
        let of = |is_read: bool| {
            let wanted = self.global_sectors.iter().filter(|(name, _)| reads(name) == is_read);
            wanted.map(|(_, sectors)| sectors.actual).sum()
        };
        [of(true), of(false)]
    }
}

/// Runs the kernel's problem.
pub fn measure(variant: &Variant) -> Emulated {
    let outcome = match problems::run(variant) {
        Ok(run) => Outcome::Ran(Traffic::new(run)),
        Err(error) => Outcome::NotRun(error.to_string()),
    };
    Emulated { name: variant.name(), outcome }
}
