//! Global memory.

use super::memory::Data;
use crate::counters::global_sectors;
use crate::hazard::Access;
use crate::machine::{Exec, each_lane};
use crate::module::Space;
use crate::shadow::Conflict;

/// Loads for each lane of the mask; `false` if the block must stop.
pub(super) fn load(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, strong: bool, data: &mut Data) -> bool {
    let access = if strong { Access::Atomic } else { Access::Read };
    let mask = x.aligned(Space::Global, access, all, mask, bytes);
    x.block.tally.global[0].add(global_sectors(all, mask, bytes));
    let checks = x.launch.options.checks;
    for lane in each_lane(mask) {
        let Some((index, offset)) = x.find_allocation(all[lane], u64::from(bytes)) else {
            x.out_of_bounds(Space::Global, access, lane, all[lane], bytes);
            return false;
        };
        let defined = x.launch.allocations[index].load(offset, bytes, &mut data[lane]);
        if !defined && checks.uninitialized_memory {
            x.report_uninitialized(Space::Global, lane, all[lane], bytes);
        }
        if checks.global_races {
            check_read(x, lane, index, offset, bytes, strong, all[lane]);
        }
    }
    true
}

/// Checks one lane's read against earlier writes.
pub(super) fn check_read(
    x: &mut Exec<'_>,
    lane: usize,
    allocation: usize,
    offset: u64,
    bytes: u32,
    strong: bool,
    address: u64,
) {
    let actor = x.actor(lane as u32, strong);
    if let Some(event) = x.block.global_shadow.read(&x.warp.clock, actor, allocation, offset, bytes) {
        let access = if strong { Access::Atomic } else { Access::Read };
        x.report_conflict(Space::Global, access, lane, address, Conflict::Race(event));
    }
}

/// Stores for each lane of the mask; `false` if the block must stop.
pub(super) fn store(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, strong: bool, data: &Data) -> bool {
    let access = if strong { Access::Atomic } else { Access::Write };
    let mask = x.aligned(Space::Global, access, all, mask, bytes);
    x.block.tally.global[1].add(global_sectors(all, mask, bytes));
    for lane in each_lane(mask) {
        let Some((index, offset)) = x.find_allocation(all[lane], u64::from(bytes)) else {
            x.out_of_bounds(Space::Global, access, lane, all[lane], bytes);
            return false;
        };
        if x.launch.options.checks.global_races {
            check_write(x, lane, (index, offset), bytes, strong, &data[lane]);
        }
        x.launch.allocations[index].store(offset, bytes, &data[lane]);
    }
    true
}

/// Checks one lane's write against earlier accesses.
pub(super) fn check_write(
    x: &mut Exec<'_>,
    lane: usize,
    (index, offset): (usize, u64),
    bytes: u32,
    strong: bool,
    words: &[u32; 4],
) {
    let actor = x.actor(lane as u32, strong);
    let allocation = &x.launch.allocations[index];
    let same = || {
        let mut now = [0; 4];
        allocation.load(offset, bytes, &mut now);
        let count = bytes.div_ceil(4) as usize;
        now[..count] == words[..count]
    };
    let found = x.block.global_shadow.write(&x.warp.clock, actor, index, offset, bytes, same);
    if let Some(event) = found {
        let access = if strong { Access::Atomic } else { Access::Write };
        x.report_conflict(Space::Global, access, lane, allocation.base + offset, Conflict::Race(event));
    }
}
