//! Collects hazards: one entry per kind and source position, with a count.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};

use super::LaunchState;
use crate::hazard::{Hazard, HazardKind, Other};
use crate::shadow::Event;

/// Where a hazard happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub block: u32,
    pub warp: u32,
    pub lane: Option<u32>,
    pub address: Option<u64>,
    pub pc: u32,
}

#[derive(Debug)]
struct Entry {
    hazard: Hazard,
    /// Linear index of the block, and how many hazards it had before this one.
    order: (u32, usize),
}

#[derive(Debug, Default)]
pub(crate) struct HazardSink {
    entries: HashMap<(Discriminant<HazardKind>, u32), Entry>,
    /// Occurrences that were not kept because a block had too many.
    dropped: u64,
}

impl HazardSink {
    pub fn add(&mut self, launch: &LaunchState<'_>, place: Place, kind: HazardKind) {
        let key = (discriminant(&kind), launch.source_position(place.pc));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.hazard.count += 1;
            return;
        }
        let sequence = self.entries.len();
        if sequence >= launch.options.limits.hazards {
            self.dropped += 1;
            return;
        }
        let hazard = Hazard {
            kind,
            kernel: launch.kernel_name.clone(),
            position: launch.position(place.pc),
            block: launch.block_index(place.block),
            warp: place.warp,
            lane: place.lane,
            address: place.address,
            count: 1,
        };
        self.entries.insert(key, Entry { hazard, order: (place.block, sequence) });
    }

    /// Takes over what other blocks found. The order of merging does not matter: the lowest block's
    /// hazard represents all of its kind and instruction.
    pub fn merge(&mut self, other: HazardSink) {
        self.dropped += other.dropped;
        for (key, mut entry) in other.entries {
            match self.entries.get_mut(&key) {
                Some(mine) => {
                    let count = mine.hazard.count + entry.hazard.count;
                    if entry.order < mine.order {
                        std::mem::swap(mine, &mut entry);
                    }
                    mine.hazard.count = count;
                }
                None => {
                    self.entries.insert(key, entry);
                }
            }
        }
    }

    /// The hazards by block, at most `limit` of them, and how many occurrences were left out.
    pub fn finish(self, limit: usize) -> (Vec<Hazard>, u64) {
        let mut entries: Vec<Entry> = self.entries.into_values().collect();
        entries.sort_by_key(|entry| entry.order);
        let left_out: u64 = entries.iter().skip(limit).map(|entry| entry.hazard.count).sum();
        entries.truncate(limit);
        (entries.into_iter().map(|entry| entry.hazard).collect(), self.dropped + left_out)
    }
}

/// The public form of an event.
pub(crate) fn other(launch: &LaunchState<'_>, event: Event) -> Box<Other> {
    let warps = launch.warps as u32;
    Box::new(Other {
        access: event.access,
        position: launch.position(event.pc),
        block: launch.block_index(launch.linear_index(event.cluster, event.warp / warps)),
        warp: event.warp % warps,
        lane: event.lane,
    })
}
