//! Shadow of global memory. Inside a block (or between blocks of a kernel that orders its blocks
//! with atomics) accesses are compared as they happen; blocks that cannot order each other are
//! compared after the launch, which makes the outcome independent of the host's threads. The blocks of a cluster count as
//! one here.

use std::collections::{BTreeMap, HashMap};

use super::clock::WarpClock;
use super::{Actor, Event};
use crate::hazard::Access;

const PAGE_BYTES: u64 = 4096;
/// Readers of one cell that are told apart when they are not ordered among each other.
const READERS_MAX: usize = 8;

const ATOMIC: u8 = 1;
/// The cell has further readers in [`Page::readers`].
const MORE_READERS: u8 = 2;
const SEVERAL_LANES: u8 = 4;
/// Written by an asynchronous copy; the warp is an agent.
const ASYNC: u8 = 8;

/// The last access of one sort; `time == 0`: none.
#[derive(Debug, Clone, Copy, Default)]
struct Stamp {
    time: u32,
    pc: u32,
    cluster: u32,
    /// Number in the cluster, or an agent.
    warp: u16,
    lane: u8,
    flags: u8,
}

impl Stamp {
    fn new(clock: &WarpClock, actor: Actor) -> Self {
        Stamp {
            time: clock.now,
            pc: actor.pc,
            cluster: actor.cluster,
            warp: clock.warp as u16,
            lane: actor.lane as u8,
            flags: if actor.atomic { ATOMIC } else { 0 },
        }
    }

    fn lane(self) -> Option<u32> {
        (self.flags & SEVERAL_LANES == 0).then_some(u32::from(self.lane))
    }

    #[inline]
    fn is_before(&self, clock: &WarpClock, actor: Actor) -> bool {
        if self.time == 0 {
            return true;
        }
        // The common case without the lane bookkeeping.
        if self.cluster == actor.cluster && self.time <= clock.seen(self.warp) {
            return true;
        }
        clock.sees(self.cluster, u32::from(self.warp), self.lane(), self.time, actor.lane)
    }

    fn event(self, read: bool) -> Event {
        let access = match (self.flags & ATOMIC != 0, read) {
            _ if self.flags & ASYNC != 0 => Access::AsyncWrite,
            (true, _) => Access::Atomic,
            (false, true) => Access::Read,
            (false, false) => Access::Write,
        };
        Event { access, cluster: self.cluster, warp: u32::from(self.warp), lane: self.lane(), pc: self.pc }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    write: Stamp,
    read: Stamp,
}

/// The cells of one page: one per word, until an access to part of a word makes them smaller.
#[derive(Debug)]
struct Page {
    /// log2 of the bytes per cell.
    shift: u32,
    cells: Vec<Cell>,
    readers: HashMap<u32, Vec<Stamp>>,
    /// Whether any cell was written.
    written: bool,
    /// One bit per 64 bytes that were accessed.
    touched: u64,
}

impl Page {
    fn new() -> Self {
        let cells = vec![Cell::default(); (PAGE_BYTES / 4) as usize];
        Page { shift: 2, cells, readers: HashMap::new(), written: false, touched: 0 }
    }

    /// The cells of each 64 bytes that were accessed.
    fn touched_cells(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (touched, cells) = (self.touched, 64usize >> self.shift);
        (0..64).filter(move |chunk| touched >> chunk & 1 != 0).map(move |chunk| chunk * cells..(chunk + 1) * cells)
    }

    fn refine(&mut self, shift: u32) {
        let times = 1usize << (self.shift - shift);
        self.cells = self.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, times)).collect();
        let readers = std::mem::take(&mut self.readers);
        for (cell, stamps) in readers {
            for part in 0..times as u32 {
                self.readers.insert(cell * times as u32 + part, stamps.clone());
            }
        }
        self.shift = shift;
    }
}

/// What one block, or one launch whose blocks communicate, did to global memory.
#[derive(Debug, Default)]
pub(crate) struct GlobalShadow {
    /// By allocation, then by page.
    pages: Vec<Vec<Option<Box<Page>>>>,
    /// Pages to be used again.
    spare: Vec<Page>,
    /// The warp behind each agent of a cluster.
    issuers: HashMap<(u32, u16), u16>,
}

impl GlobalShadow {
    /// Forgets all accesses and keeps the memory.
    pub fn clear(&mut self) {
        self.issuers.clear();
        for slot in self.pages.iter_mut().flatten() {
            if let Some(mut page) = slot.take()
                && page.shift == 2
            {
                for range in page.touched_cells() {
                    page.cells[range].fill(Cell::default());
                }
                page.readers.clear();
                (page.written, page.touched) = (false, 0);
                self.spare.push(*page);
            }
        }
    }

    /// The page that holds `offset` of an allocation, with cells no larger than `bytes`.
    #[inline]
    fn page(&mut self, allocation: usize, offset: u64, bytes: u32) -> &mut Page {
        if self.pages.len() <= allocation {
            self.pages.resize_with(allocation + 1, Vec::new);
        }
        let pages = &mut self.pages[allocation];
        let index = (offset / PAGE_BYTES) as usize;
        if pages.len() <= index {
            pages.resize_with(index + 1, || None);
        }
        let spare = &mut self.spare;
        let page = pages[index].get_or_insert_with(|| Box::new(spare.pop().unwrap_or_else(Page::new)));
        if bytes < 4 && bytes.trailing_zeros() < page.shift {
            page.refine(bytes.trailing_zeros());
        }
        page.touched |= 1 << (offset % PAGE_BYTES / 64);
        page
    }

    /// The event with the warp behind an agent.
    #[cold]
    fn named(&self, mut event: Event) -> Event {
        if event.access == Access::AsyncWrite {
            let issuer = self.issuers.get(&(event.cluster, event.warp as u16));
            event.warp = issuer.map_or(0, |warp| u32::from(*warp));
        }
        event
    }

    /// Checks and records the read of any number of bytes by one lane. Also tells where the conflict is.
    pub fn read_range(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        allocation: usize,
        offset: u64,
        bytes: u64,
    ) -> Option<(u64, Event)> {
        let (mut at, end) = (offset, offset + bytes);
        let mut conflict = None;
        while at < end {
            // Up to 16 bytes, or fewer where they are not aligned or at the end.
            let size = 1u64 << at.trailing_zeros().min(4).min((end - at).ilog2());
            let found = self.read(clock, actor, allocation, at, size as u32);
            conflict = conflict.or(found.map(|event| (at, event)));
            at += size;
        }
        conflict
    }

    /// Checks the write of any number of bytes by an asynchronous copy, which will be visible to those who have waited
    /// for the agent at `time`.
    pub fn write_range(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        (agent, time): (u16, u32),
        allocation: usize,
        offset: u64,
        bytes: u64,
    ) -> Option<(u64, Event)> {
        self.issuers.insert((actor.cluster, agent), clock.warp as u16);
        let (mut at, end) = (offset, offset + bytes);
        let mut conflict = None;
        while at < end {
            let size = 1u64 << at.trailing_zeros().min(4).min((end - at).ilog2());
            let found = self.write(clock, actor, allocation, at, size as u32, || false);
            conflict = conflict.or(found.map(|event| (at, event)));
            let page = self.page(allocation, at, size as u32);
            let first = ((at % PAGE_BYTES) >> page.shift) as usize;
            for cell in &mut page.cells[first..first + (size as usize >> page.shift).max(1)] {
                (cell.write.time, cell.write.warp) = (time, agent);
                cell.write.flags |= ASYNC;
            }
            at += size;
        }
        conflict
    }

    /// Checks and records a read of up to 16 aligned bytes.
    #[inline]
    pub fn read(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        allocation: usize,
        offset: u64,
        bytes: u32,
    ) -> Option<Event> {
        let page = self.page(allocation, offset, bytes);
        let first = ((offset % PAGE_BYTES) >> page.shift) as usize;
        let count = (bytes >> page.shift).max(1) as usize;
        let mut conflict = None;
        for index in first..first + count {
            let cell = &mut page.cells[index];
            let strong = actor.atomic && cell.write.flags & ATOMIC != 0;
            if !strong && !cell.write.is_before(clock, actor) {
                conflict = conflict.or(Some(cell.write.event(false)));
            }
            if actor.atomic {
                continue;
            }
            let read = &mut cell.read;
            let same_warp = read.cluster == actor.cluster && u32::from(read.warp) == clock.warp;
            if same_warp && read.time == clock.now && read.time != 0 {
                if u32::from(read.lane) != actor.lane {
                    read.flags |= SEVERAL_LANES;
                }
                read.pc = actor.pc;
            } else if same_warp || read.is_before(clock, actor) {
                let more = read.flags & MORE_READERS;
                *read = Stamp::new(clock, actor);
                read.flags |= more;
            } else {
                // Another warp reads too: both must be ordered before a later write.
                read.flags |= MORE_READERS;
                let mut moved = *read;
                moved.flags &= !MORE_READERS;
                let readers = page.readers.entry(index as u32).or_default();
                readers.retain(|r| r.cluster != moved.cluster || r.warp != moved.warp);
                if readers.len() == READERS_MAX {
                    readers.remove(0);
                }
                readers.push(moved);
                *read = Stamp::new(clock, actor);
                read.flags |= MORE_READERS;
            }
        }
        conflict.map(|event| self.named(event))
    }

    /// Checks and records a write of up to 16 aligned bytes. `same_value`: see
    /// [`super::shared::SharedShadow::write`].
    #[inline]
    pub fn write(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        allocation: usize,
        offset: u64,
        bytes: u32,
        same_value: impl Fn() -> bool,
    ) -> Option<Event> {
        let page = self.page(allocation, offset, bytes);
        page.written = true;
        let first = ((offset % PAGE_BYTES) >> page.shift) as usize;
        let count = (bytes >> page.shift).max(1) as usize;
        let mut conflict = None;
        for index in first..first + count {
            let cell = &mut page.cells[index];
            let write = &cell.write;
            if conflict.is_none() && !write.is_before(clock, actor) {
                let strong = actor.atomic && write.flags & ATOMIC != 0;
                let own = write.cluster == actor.cluster && u32::from(write.warp) == clock.warp;
                let benign = own && write.pc == actor.pc && same_value();
                if !strong && !benign {
                    conflict = Some(write.event(false));
                }
            }
            if conflict.is_none() && !cell.read.is_before(clock, actor) {
                conflict = Some(cell.read.event(true));
            }
            if cell.read.flags & MORE_READERS != 0 {
                for reader in page.readers.remove(&(index as u32)).unwrap_or_default() {
                    if conflict.is_none() && !reader.is_before(clock, actor) {
                        conflict = Some(reader.event(true));
                    }
                }
            }
            *cell = Cell { write: Stamp::new(clock, actor), read: Stamp::default() };
            // A block that first reads and then writes is still a reader for the others, but a
            // conflict with its write says the same.
        }
        conflict.map(|event| self.named(event))
    }
}

/// An event in 64 bits, ordered by cluster first.
fn pack(stamp: Stamp) -> u64 {
    let lane = if stamp.flags & SEVERAL_LANES != 0 { 32 } else { u64::from(stamp.lane) };
    u64::from(stamp.cluster) << 40 | u64::from(stamp.warp) << 31 | lane << 25 | u64::from(stamp.pc) & ((1 << 25) - 1)
}

fn unpack(packed: u64, access: Access) -> Event {
    let lane = (packed >> 25 & 63) as u32;
    Event {
        access,
        cluster: (packed >> 40) as u32,
        warp: (packed >> 31 & 511) as u32,
        lane: (lane < 32).then_some(lane),
        pc: (packed & ((1 << 25) - 1)) as u32,
    }
}

const NONE: u64 = u64::MAX;

/// The lowest and highest cluster that touched a cell. Minimum and maximum do not depend on the order
/// in which clusters finish.
#[derive(Debug, Clone, Copy)]
struct Extent {
    low: u64,
    high: u64,
}

impl Extent {
    const EMPTY: Extent = Extent { low: NONE, high: 0 };

    fn add(&mut self, stamp: Stamp, issuers: &HashMap<(u32, u16), u16>) {
        if stamp.time != 0 {
            let mut stamp = stamp;
            if stamp.flags & ASYNC != 0 {
                stamp.warp = issuers.get(&(stamp.cluster, stamp.warp)).copied().unwrap_or(0);
            }
            let packed = pack(stamp);
            self.low = self.low.min(packed);
            self.high = self.high.max(packed);
        }
    }

    fn is_empty(self) -> bool {
        self.low == NONE
    }
}

#[derive(Debug)]
struct SummaryPage {
    shift: u32,
    cells: Vec<(Extent, Extent)>,
}

/// What all blocks of a launch did to global memory, without order between them.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pages: BTreeMap<(usize, usize), SummaryPage>,
}

/// Two blocks touched the same memory.
pub(crate) struct BlockConflict {
    pub allocation: usize,
    pub offset: u64,
    pub later: Event,
    pub earlier: Event,
}

impl Summary {
    /// Adds what a finished block did.
    pub fn add(&mut self, shadow: &GlobalShadow) {
        let issuers = &shadow.issuers;
        for (allocation, pages) in shadow.pages.iter().enumerate() {
            for (index, page) in pages.iter().enumerate() {
                let Some(page) = page else { continue };
                let summary = self.pages.entry((allocation, index)).or_insert_with(|| SummaryPage {
                    shift: page.shift,
                    cells: vec![(Extent::EMPTY, Extent::EMPTY); page.cells.len()],
                });
                if page.shift < summary.shift {
                    let times = 1usize << (summary.shift - page.shift);
                    summary.cells = summary.cells.iter().flat_map(|c| std::iter::repeat_n(*c, times)).collect();
                    summary.shift = page.shift;
                }
                let times = 1usize << (page.shift - summary.shift);
                for range in page.touched_cells() {
                    let cells = &page.cells[range.clone()];
                    let all = &mut summary.cells[range.start * times..range.end * times];
                    if times == 1 && !page.written {
                        all.iter_mut().zip(cells).for_each(|((_, reads), cell)| reads.add(cell.read, issuers));
                        continue;
                    }
                    for (parts, cell) in all.chunks_mut(times).zip(cells) {
                        for (writes, reads) in parts {
                            writes.add(cell.write, issuers);
                            reads.add(cell.read, issuers);
                        }
                    }
                }
            }
        }
    }

    /// Memory that one block wrote and another touched.
    pub fn conflicts(&self) -> impl Iterator<Item = BlockConflict> {
        self.pages.iter().flat_map(|(&(allocation, index), page)| {
            page.cells.iter().enumerate().filter_map(move |(cell, (writes, reads))| {
                let (later, earlier) = conflict(*writes, *reads)?;
                let offset = index as u64 * PAGE_BYTES + ((cell as u64) << page.shift);
                Some(BlockConflict { allocation, offset, later, earlier })
            })
        })
    }
}

fn conflict(writes: Extent, reads: Extent) -> Option<(Event, Event)> {
    if writes.is_empty() {
        return None;
    }
    let (first, last) = (unpack(writes.low, Access::Write), unpack(writes.high, Access::Write));
    if first.cluster != last.cluster {
        return Some((last, first));
    }
    if reads.is_empty() {
        return None;
    }
    let (low, high) = (unpack(reads.low, Access::Read), unpack(reads.high, Access::Read));
    if high.cluster > first.cluster {
        Some((high, first))
    } else if low.cluster < first.cluster {
        Some((first, low))
    } else {
        None
    }
}
