//! What all memory instructions share: addresses, bounds, and the reports when they are wrong.

use crate::decode::{Address, Inst};
use crate::hazard::{Access, HazardKind, MbarrierFault};
use crate::machine::report::other;
use crate::machine::{Exec, Step, each_lane};
use crate::module::Space;
use crate::shadow::Conflict;

/// The base address is in a long row.
pub(super) const LONG_BASE: u32 = 1 << 31;

/// Stores an address operand in `a` and `offset`.
pub(super) fn set_address(inst: &mut Inst, address: Address) {
    inst.a = address.row;
    inst.offset = address.offset;
    inst.flags |= if address.long { LONG_BASE } else { 0 };
}

/// The address of each lane.
#[inline(always)]
pub(super) fn addresses(x: &mut Exec<'_>, i: &Inst, mask: u32) -> [u64; 32] {
    let mut all = if i.flags & LONG_BASE != 0 { x.long(i.a, mask) } else { x.word(i.a, mask).map(u64::from) };
    if i.offset != 0 {
        for address in &mut all {
            *address = address.wrapping_add(i.offset as u64);
        }
        // Offsets to 32-bit addresses wrap in 32 bits.
        if i.flags & LONG_BASE == 0 {
            all = all.map(|address| address & 0xffff_ffff);
        }
    }
    all
}

impl Exec<'_> {
    /// The allocation that holds these bytes, and the offset in it.
    #[inline(always)]
    pub fn find_allocation(&mut self, address: u64, bytes: u64) -> Option<(usize, u64)> {
        let allocations = &self.launch.allocations;
        let hint = self.block.allocation_hint;
        if let Some(allocation) = allocations.get(hint)
            && allocation.contains(address, bytes)
        {
            return Some((hint, address - allocation.base));
        }
        let after = allocations.partition_point(|allocation| allocation.base <= address);
        let index = after.checked_sub(1)?;
        let allocation = &allocations[index];
        if !allocation.contains(address, bytes) {
            return None;
        }
        self.block.allocation_hint = index;
        Some((index, address - allocation.base))
    }

    /// Reports an access outside of memory.
    #[cold]
    pub fn out_of_bounds(&mut self, space: Space, access: Access, lane: usize, address: u64, bytes: u32) -> Step {
        let nearest = match space {
            Space::Shared => format!("outside of the block's {} bytes of shared memory", self.launch.shared_bytes),
            Space::Local => {
                format!("outside of the thread's {} bytes of local memory", self.launch.program.local.bytes)
            }
            Space::Param => format!("outside of the kernel's {} bytes of parameters", self.launch.parameters.len()),
            _ => self.nearest_allocation(address, bytes),
        };
        self.report(Some(lane as u32), Some(address), HazardKind::OutOfBounds { space, access, bytes, nearest })
    }

    fn nearest_allocation(&self, address: u64, bytes: u32) -> String {
        let distance = |a: &crate::memory::Allocation| {
            if address < a.base { a.base - address } else { address.saturating_sub(a.base + a.bytes) }
        };
        let Some(nearest) = self.launch.allocations.iter().min_by_key(|a| distance(a)) else {
            return "in a memory without allocations".to_owned();
        };
        let (base, size) = (nearest.base, nearest.bytes);
        if address < base {
            format!("{} bytes before the allocation of {size} bytes at {base:#x}", base - address)
        } else if address < base + size {
            let over = (address - base).saturating_add(u64::from(bytes)) - size;
            format!("{over} bytes across the end of the allocation of {size} bytes at {base:#x}")
        } else {
            format!("{} bytes after the end of the allocation of {size} bytes at {base:#x}", address - base - size)
        }
    }

    /// Takes out of the mask, and reports, the lanes whose address is not a multiple of `bytes`.
    #[inline(always)]
    pub fn aligned(&mut self, space: Space, access: Access, all: &[u64; 32], mask: u32, bytes: u32) -> u32 {
        let low = u64::from(bytes) - 1;
        let mut bits = 0;
        for lane in 0..32 {
            bits |= if mask >> lane & 1 != 0 { all[lane] } else { 0 };
        }
        if bits & low == 0 {
            return mask;
        }
        let wrong = each_lane(mask).filter(|lane| all[*lane] & low != 0).fold(0, |wrong, lane| wrong | 1u32 << lane);
        let lane = wrong.trailing_zeros();
        let kind = HazardKind::Misaligned { space, access, bytes };
        self.report(Some(lane), Some(all[lane as usize]), kind);
        mask & !wrong
    }

    /// Reports a conflict that a shadow memory found.
    #[cold]
    #[inline(never)]
    pub fn report_conflict(&mut self, space: Space, access: Access, lane: usize, address: u64, conflict: Conflict) {
        let kind = match conflict {
            Conflict::Race(event) if event.access == Access::AsyncWrite => {
                HazardKind::AsyncInFlight { space, access, copy: other(self.launch, event) }
            }
            Conflict::Race(event) => HazardKind::Race { space, access, other: other(self.launch, event) },
            Conflict::InFlight(event) => HazardKind::AsyncInFlight { space, access, copy: other(self.launch, event) },
            Conflict::Unfenced(event) => HazardKind::MissingProxyFence { access, other: other(self.launch, event) },
            Conflict::Barrier => HazardKind::Mbarrier { fault: MbarrierFault::Touched },
        };
        self.report(Some(lane as u32), Some(address), kind);
    }

    /// Reports a read of memory that nothing wrote.
    #[cold]
    #[inline(never)]
    pub fn report_uninitialized(&mut self, space: Space, lane: usize, address: u64, bytes: u32) {
        self.report(Some(lane as u32), Some(address), HazardKind::UninitializedMemory { space, bytes });
    }
}
