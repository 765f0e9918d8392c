//! Shadow of a block's shared memory, one cell per word. Words that are accessed in parts get a
//! cell per byte.

use std::collections::HashMap;

use super::clock::WarpClock;
use super::{Actor, Conflict, Event};
use crate::hazard::Access;

const IN_FLIGHT: u8 = 1;
const SPLIT: u8 = 2;
const ATOMIC: u8 = 4;

/// Stands for several lanes.
const MANY: u8 = 32;

/// The last write.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    time: u32,
    pc: u32,
    warp: u8,
    lane: u8,
    /// One bit per byte that holds something.
    written: u8,
    flags: u8,
}

/// The last read by one warp.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    /// Time in the upper 26 bits, lane in the lower 6.
    stamp: u32,
    pc: u32,
}

impl Read {
    fn time(self) -> u32 {
        self.stamp >> 6
    }

    fn lane(self) -> u8 {
        (self.stamp & 63) as u8
    }

    /// Adds a read to what is remembered.
    #[inline]
    fn record(&mut self, time: u32, lane: u32, pc: u32) {
        let stamp = time << 6 | lane;
        let another_lane = self.stamp ^ stamp < 64 && self.stamp != stamp;
        self.stamp = if another_lane { time << 6 | u32::from(MANY) } else { stamp };
        self.pc = pc;
    }
}

/// Clocks must fit their bits in [`Read`].
pub(crate) const TIME_MAX: u32 = (1 << 26) - 1;

#[derive(Debug, Clone, Default)]
struct ByteCell {
    write: Cell,
    reads: Vec<(u8, Read)>,
}

#[derive(Debug)]
pub(crate) struct SharedShadow {
    cells: Vec<Cell>,
    /// `warp * words + word`
    reads: Vec<Read>,
    split: HashMap<u32, Box<[ByteCell; 4]>>,
    block: u32,
}

impl SharedShadow {
    pub fn new(bytes: u32, warps: usize, block: u32) -> Self {
        let words = bytes.div_ceil(4) as usize;
        SharedShadow {
            cells: vec![Cell::default(); words],
            reads: vec![Read::default(); words * warps],
            split: HashMap::new(),
            block,
        }
    }

    fn event(&self, access: Access, warp: u8, lane: u8, pc: u32) -> Event {
        Event { access, block: self.block, warp: u32::from(warp), lane: (lane < MANY).then_some(u32::from(lane)), pc }
    }

    fn write_event(&self, cell: &Cell) -> Event {
        let access = if cell.flags & IN_FLIGHT != 0 {
            Access::AsyncWrite
        } else if cell.flags & ATOMIC != 0 {
            Access::Atomic
        } else {
            Access::Write
        };
        self.event(access, cell.warp, cell.lane, cell.pc)
    }

    /// Whether all bytes hold something.
    pub fn is_written(&self, address: u32, bytes: u32) -> bool {
        let (first, last) = (address >> 2, (address + bytes - 1) >> 2);
        (first..=last).all(|word| {
            let cell = &self.cells[word as usize];
            let wanted = byte_mask(address, bytes, word);
            if cell.flags & SPLIT == 0 {
                return cell.written & wanted == wanted;
            }
            let bytes = &self.split[&word];
            (0..4).all(|b| wanted >> b & 1 == 0 || bytes[b].write.written != 0)
        })
    }

    /// Checks and records a read. Also says whether the bytes hold something.
    #[inline]
    pub fn read(&mut self, clock: &WarpClock, actor: Actor, address: u32, bytes: u32) -> (Option<Conflict>, bool) {
        let mut conflict = None;
        let mut defined = true;
        let words = self.cells.len();
        let base = clock.warp as usize * words;
        let first = (address >> 2) as usize;
        let last = ((address + bytes - 1) >> 2) as usize;
        let partial = (address | bytes) & 3 != 0;
        for word in first..=last {
            let cell = self.cells[word];
            if cell.flags & (IN_FLIGHT | SPLIT) != 0 || partial {
                let (found, whole) = self.read_slow(clock, actor, word as u32, byte_mask(address, bytes, word as u32));
                conflict = conflict.or(found);
                defined &= whole;
                continue;
            }
            defined &= cell.written == 0xf;
            if cell.time > clock.visible[usize::from(cell.warp)] {
                conflict = conflict.or_else(|| self.unordered_write(clock, actor, &cell));
            }
            // A strong read conflicts with nothing that is strong too; weak writes are found when
            // they come first.
            if !actor.atomic {
                self.reads[base + word].record(clock.now, actor.lane, actor.pc);
            }
        }
        (conflict, defined)
    }

    #[cold]
    fn unordered_write(&self, clock: &WarpClock, actor: Actor, cell: &Cell) -> Option<Conflict> {
        let strong = actor.atomic && cell.flags & ATOMIC != 0;
        let lane = (cell.lane < MANY).then_some(u32::from(cell.lane));
        if strong || clock.sees(self.block, u32::from(cell.warp), lane, cell.time, actor.lane) {
            return None;
        }
        Some(Conflict::Race(self.write_event(cell)))
    }

    fn read_slow(&mut self, clock: &WarpClock, actor: Actor, word: u32, mask: u8) -> (Option<Conflict>, bool) {
        let cell = self.cells[word as usize];
        if cell.flags & IN_FLIGHT != 0 {
            return (Some(Conflict::InFlight(self.write_event(&cell))), true);
        }
        let bytes = self.split_word(word, clock.visible.len());
        let (mut conflict, mut defined) = (None, true);
        for byte in (0..4).filter(|b| mask >> b & 1 != 0) {
            let write = bytes[byte].write;
            defined &= write.written != 0;
            if write.time > clock.visible[usize::from(write.warp)] && conflict.is_none() {
                conflict = Some(write);
            }
            if actor.atomic {
                continue;
            }
            let slot = bytes[byte].reads.iter().position(|(warp, _)| u32::from(*warp) == clock.warp);
            match slot {
                Some(at) => bytes[byte].reads[at].1.record(clock.now, actor.lane, actor.pc),
                None => {
                    let mut read = Read::default();
                    read.record(clock.now, actor.lane, actor.pc);
                    bytes[byte].reads.push((clock.warp as u8, read));
                }
            }
        }
        (conflict.and_then(|write| self.unordered_write(clock, actor, &write)), defined)
    }

    /// The byte cells of a word, made from its word cell if need be.
    fn split_word(&mut self, word: u32, warps: usize) -> &mut [ByteCell; 4] {
        let words = self.cells.len();
        let cell = &mut self.cells[word as usize];
        if cell.flags & SPLIT == 0 {
            let mut bytes: [ByteCell; 4] = std::array::from_fn(|byte| {
                let mut write = *cell;
                write.written = cell.written >> byte & 1;
                ByteCell { write, reads: Vec::new() }
            });
            for warp in 0..warps {
                let read = self.reads[warp * words + word as usize];
                if read.stamp != 0 {
                    bytes.iter_mut().for_each(|b| b.reads.push((warp as u8, read)));
                }
            }
            cell.flags |= SPLIT;
            self.split.insert(word, Box::new(bytes));
        }
        self.split.get_mut(&word).expect("a split word has byte cells")
    }

    /// Checks and records a write. `same_value` says whether the memory already holds these bytes:
    /// several lanes that store the same value with one instruction do no harm.
    #[inline]
    pub fn write(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        address: u32,
        bytes: u32,
        same_value: impl Fn() -> bool,
    ) -> Option<Conflict> {
        let mut conflict = None;
        let first = (address >> 2) as usize;
        let last = ((address + bytes - 1) >> 2) as usize;
        let partial = (address | bytes) & 3 != 0;
        for word in first..=last {
            let cell = self.cells[word];
            if partial || cell.flags & SPLIT != 0 {
                let mask = byte_mask(address, bytes, word as u32);
                conflict = conflict.or(self.write_slow(clock, actor, word as u32, mask, &same_value));
                continue;
            }
            conflict = conflict.or(self.check_write(clock, actor, word, &same_value));
            self.cells[word] = Cell {
                time: clock.now,
                pc: actor.pc,
                warp: clock.warp as u8,
                lane: actor.lane as u8,
                written: 0xf,
                flags: if actor.atomic { ATOMIC } else { 0 },
            };
        }
        conflict
    }

    /// Whether a write to a whole word conflicts with what is remembered.
    #[inline]
    fn check_write(
        &self,
        clock: &WarpClock,
        actor: Actor,
        word: usize,
        same_value: &impl Fn() -> bool,
    ) -> Option<Conflict> {
        let cell = &self.cells[word];
        if cell.flags & IN_FLIGHT != 0 {
            return Some(Conflict::InFlight(self.write_event(cell)));
        }
        if cell.time > clock.visible[usize::from(cell.warp)] {
            let benign = cell.pc == actor.pc && u32::from(cell.warp) == clock.warp && same_value();
            if let (false, Some(found)) = (benign, self.unordered_write(clock, actor, cell)) {
                return Some(found);
            }
        }
        let words = self.cells.len();
        for (warp, seen) in clock.visible.iter().enumerate() {
            let read = self.reads[warp * words + word];
            if read.time() > *seen
                && let Some(found) = self.unordered_read(clock, actor, warp as u8, read)
            {
                return Some(found);
            }
        }
        None
    }

    #[cold]
    fn unordered_read(&self, clock: &WarpClock, actor: Actor, warp: u8, read: Read) -> Option<Conflict> {
        let lane = (read.lane() < MANY).then_some(u32::from(read.lane()));
        if clock.sees(self.block, u32::from(warp), lane, read.time(), actor.lane) {
            return None;
        }
        Some(Conflict::Race(self.event(Access::Read, warp, read.lane(), read.pc)))
    }

    fn write_slow(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        word: u32,
        mask: u8,
        same_value: &impl Fn() -> bool,
    ) -> Option<Conflict> {
        let cell = self.cells[word as usize];
        if cell.flags & IN_FLIGHT != 0 {
            return Some(Conflict::InFlight(self.write_event(&cell)));
        }
        let mut old: [ByteCell; 4] = self.split_word(word, clock.visible.len()).clone();
        let mut conflict = None;
        for cell in old.iter_mut().enumerate().filter(|(b, _)| mask >> b & 1 != 0).map(|(_, cell)| cell) {
            let write = cell.write;
            if write.time > clock.visible[usize::from(write.warp)] {
                let benign = write.pc == actor.pc && u32::from(write.warp) == clock.warp && same_value();
                if !benign {
                    conflict = conflict.or_else(|| self.unordered_write(clock, actor, &write));
                }
            }
            for (warp, read) in &cell.reads {
                if read.time() > clock.visible[usize::from(*warp)] {
                    conflict = conflict.or_else(|| self.unordered_read(clock, actor, *warp, *read));
                }
            }
            cell.reads.clear();
            cell.write = Cell {
                time: clock.now,
                pc: actor.pc,
                warp: clock.warp as u8,
                lane: actor.lane as u8,
                written: 1,
                flags: if actor.atomic { ATOMIC } else { 0 },
            };
        }
        if mask == 0xf {
            // Written as a whole: one cell is enough again.
            self.split.remove(&word);
            let mut whole = old[0].write;
            whole.written = 0xf;
            self.cells[word as usize] = whole;
            let words = self.cells.len();
            (0..clock.visible.len()).for_each(|warp| self.reads[warp * words + word as usize] = Read::default());
        } else {
            *self.split_word(word, clock.visible.len()) = old;
        }
        conflict
    }

    /// An asynchronous copy into whole words is issued. Until [`Self::end_copy`] every touch is
    /// reported.
    pub fn begin_copy(&mut self, clock: &WarpClock, actor: Actor, address: u32, bytes: u32) -> Option<Conflict> {
        let mut conflict = None;
        for word in (address >> 2)..(address + bytes).div_ceil(4) {
            if self.cells[word as usize].flags & SPLIT != 0 {
                conflict = conflict.or(self.write_slow(clock, actor, word, 0xf, &|| false));
            } else {
                conflict = conflict.or(self.check_write(clock, actor, word as usize, &|| false));
            }
            self.cells[word as usize] = Cell {
                time: clock.now,
                pc: actor.pc,
                warp: clock.warp as u8,
                lane: actor.lane as u8,
                written: 0xf,
                flags: IN_FLIGHT,
            };
        }
        conflict
    }

    /// The lane that issued the copy has waited for it: from now on it counts as a write of that lane.
    pub fn end_copy(&mut self, clock: &WarpClock, lane: u32, address: u32, bytes: u32) {
        for cell in &mut self.cells[(address >> 2) as usize..(address + bytes).div_ceil(4) as usize] {
            let own = u32::from(cell.warp) == clock.warp && u32::from(cell.lane) == lane;
            if own && cell.flags & IN_FLIGHT != 0 {
                cell.flags &= !IN_FLIGHT;
                cell.time = clock.now;
            }
        }
    }
}

/// The bytes of `word` that the access covers.
fn byte_mask(address: u32, bytes: u32, word: u32) -> u8 {
    let start = u64::from(word) * 4;
    let (from, to) = (u64::from(address), u64::from(address) + u64::from(bytes));
    (0..4).filter(|b| (from..to).contains(&(start + b))).fold(0, |mask, b| mask | 1 << b)
}
