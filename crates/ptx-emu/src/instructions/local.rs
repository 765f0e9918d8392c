//! Local memory: each lane has its own, so there is nothing to race with.

use super::memory::{Data, fetch, put};
use crate::hazard::Access;
use crate::machine::{Exec, each_lane};
use crate::module::Space;

/// The bytes of one lane in the warp's local memory, or a report.
fn place(x: &mut Exec<'_>, access: Access, lane: usize, address: u64, bytes: u32) -> Option<std::ops::Range<usize>> {
    let size = u64::from(x.launch.program.local.bytes);
    if address.checked_add(u64::from(bytes)).is_none_or(|end| end > size) {
        x.out_of_bounds(Space::Local, access, lane, address, bytes);
        return None;
    }
    let start = lane * size as usize + address as usize;
    Some(start..start + bytes as usize)
}

/// Loads for each lane of the mask; `false` if the block must stop.
pub(super) fn load(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, data: &mut Data) -> bool {
    let mask = x.aligned(Space::Local, Access::Read, all, mask, bytes);
    for lane in each_lane(mask) {
        let Some(range) = place(x, Access::Read, lane, all[lane], bytes) else { return false };
        let defined = x.warp.local_written[range.clone()].iter().all(|written| *written);
        if !defined && x.launch.options.checks.uninitialized_memory {
            x.report_uninitialized(Space::Local, lane, all[lane], bytes);
        }
        fetch(&x.warp.local, range.start, bytes, &mut data[lane]);
    }
    true
}

/// Stores for each lane of the mask; `false` if the block must stop.
pub(super) fn store(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, data: &Data) -> bool {
    let mask = x.aligned(Space::Local, Access::Write, all, mask, bytes);
    for lane in each_lane(mask) {
        let Some(range) = place(x, Access::Write, lane, all[lane], bytes) else { return false };
        put(&mut x.warp.local, range.start, bytes, &data[lane]);
        x.warp.local_written[range].fill(true);
    }
    true
}
