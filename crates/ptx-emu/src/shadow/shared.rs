//! Shadow of a block's shared memory, one cell per word. Words that are accessed in parts get a
//! cell per byte.

use std::collections::HashMap;
use std::ops::Range;

use super::clock::{WHOLE_WARP, WarpClock};
use super::{Actor, Conflict, Event};
use crate::hazard::Access;

/// The lower half of [`Cell::bits`]: bytes that hold something.
const WRITTEN: u8 = 0xf;
const IN_FLIGHT: u8 = 0x10;
const SPLIT: u8 = 0x20;
/// The word belongs to an mbarrier.
const BARRIER: u8 = IN_FLIGHT | SPLIT;
const ATOMIC: u8 = 0x40;
/// Written by an asynchronous copy of the async proxy.
const ASYNC: u8 = 0x80;

/// Stands for several lanes.
const MANY: u8 = 32;

/// log2 of the words of which the last read is known at a glance.
const CHUNK: usize = 6;

/// The last write.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    time: u32,
    pc: u32,
    /// Number in the cluster, or an agent.
    warp: u16,
    lane: u8,
    bits: u8,
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

/// A lane as clocks take it.
fn lane_of(lane: u8) -> Option<u32> {
    (lane != MANY).then_some(u32::from(lane))
}

/// Clocks must fit their bits in [`Read`].
pub(crate) const TIME_MAX: u32 = (1 << 26) - 1;

#[derive(Debug, Clone, Default)]
struct ByteCell {
    write: Cell,
    reads: Vec<(u16, Read)>,
}

#[derive(Debug)]
pub(crate) struct SharedShadow {
    cells: Vec<Cell>,
    /// `warp * words + word`
    reads: Vec<Read>,
    /// `warp * chunks + chunk`: the last time at which the warp read there.
    last_reads: Vec<u32>,
    /// Asynchronous reads of each word that may still be going on.
    flying: Vec<u16>,
    split: HashMap<u32, Box<[ByteCell; 4]>>,
    cluster: u32,
    /// Warps of the cluster; higher numbers are agents.
    warps: usize,
    /// The warps that may have read: the block's own, until another block's warp does.
    readers: Range<usize>,
    /// The warp on whose behalf an agent last acted.
    issuers: HashMap<u16, u16>,
}

impl SharedShadow {
    /// Shared memory of a block whose warps have these numbers in a cluster of `warps`.
    pub fn new(bytes: u32, warps: usize, own: Range<usize>, cluster: u32) -> Self {
        let words = bytes.div_ceil(4) as usize;
        SharedShadow {
            cells: vec![Cell::default(); words],
            reads: vec![Read::default(); words * warps],
            last_reads: vec![0; ((words >> CHUNK) + 1) * warps],
            flying: vec![0; words],
            split: HashMap::new(),
            cluster,
            warps,
            readers: own,
            issuers: HashMap::new(),
        }
    }

    fn event(&self, access: Access, warp: u16, lane: u8, pc: u32) -> Event {
        let warp = self.issuers.get(&warp).copied().unwrap_or(warp);
        let lane = (lane < MANY).then_some(u32::from(lane));
        Event { access, cluster: self.cluster, warp: u32::from(warp), lane, pc }
    }

    fn write_event(&self, cell: &Cell) -> Event {
        let access = if cell.bits & IN_FLIGHT != 0 || usize::from(cell.warp) >= self.warps {
            Access::AsyncWrite
        } else if cell.bits & ATOMIC != 0 {
            Access::Atomic
        } else {
            Access::Write
        };
        self.event(access, cell.warp, cell.lane, cell.pc)
    }

    /// Takes note that a warp reads in these words.
    #[inline(always)]
    fn note_reads(&mut self, clock: &WarpClock, first: usize, last: usize) {
        let warp = clock.warp as usize;
        if !self.readers.contains(&warp) {
            self.readers = self.readers.start.min(warp)..self.readers.end.max(warp + 1);
        }
        let base = warp * ((self.cells.len() >> CHUNK) + 1);
        for chunk in first >> CHUNK..=last >> CHUNK {
            self.last_reads[base + chunk] = clock.now;
        }
    }

    /// Whether all bytes hold something.
    pub fn is_written(&self, address: u32, bytes: u32) -> bool {
        let (first, last) = (address >> 2, (address + bytes - 1) >> 2);
        (first..=last).all(|word| {
            let cell = &self.cells[word as usize];
            let wanted = byte_mask(address, bytes, word);
            match cell.bits & BARRIER {
                BARRIER => true,
                SPLIT => {
                    let bytes = &self.split[&word];
                    (0..4).all(|b| wanted >> b & 1 == 0 || bytes[b].write.bits & WRITTEN != 0)
                }
                _ => cell.bits & wanted == wanted,
            }
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
        self.note_reads(clock, first, last);
        for word in first..=last {
            let cell = self.cells[word];
            if cell.bits & (IN_FLIGHT | SPLIT) != 0 || partial {
                let (found, whole) = self.read_slow(clock, actor, word as u32, byte_mask(address, bytes, word as u32));
                conflict = conflict.or(found);
                defined &= whole;
                continue;
            }
            defined &= cell.bits & WRITTEN == WRITTEN;
            if cell.time > clock.seen(cell.warp) {
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
        let strong = actor.atomic && cell.bits & ATOMIC != 0;
        if strong || clock.sees(self.cluster, u32::from(cell.warp), lane_of(cell.lane), cell.time, actor.lane) {
            return None;
        }
        let event = self.write_event(cell);
        // What an agent wrote is complete for those who waited for the agent, and for nobody else.
        Some(if event.access == Access::AsyncWrite { Conflict::InFlight(event) } else { Conflict::Race(event) })
    }

    fn read_slow(&mut self, clock: &WarpClock, actor: Actor, word: u32, mask: u8) -> (Option<Conflict>, bool) {
        let cell = self.cells[word as usize];
        match cell.bits & BARRIER {
            BARRIER => return (Some(Conflict::Barrier), true),
            IN_FLIGHT => return (Some(Conflict::InFlight(self.write_event(&cell))), true),
            _ => {}
        }
        let bytes = self.split_word(word);
        let (mut conflict, mut defined) = (None, true);
        for byte in (0..4).filter(|b| mask >> b & 1 != 0) {
            let write = bytes[byte].write;
            defined &= write.bits & WRITTEN != 0;
            if write.time > clock.seen(write.warp) && conflict.is_none() {
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
                    bytes[byte].reads.push((clock.warp as u16, read));
                }
            }
        }
        (conflict.and_then(|write| self.unordered_write(clock, actor, &write)), defined)
    }

    /// The byte cells of a word, made from its word cell if need be.
    fn split_word(&mut self, word: u32) -> &mut [ByteCell; 4] {
        let words = self.cells.len();
        let cell = &mut self.cells[word as usize];
        if cell.bits & SPLIT == 0 {
            let mut bytes: [ByteCell; 4] = std::array::from_fn(|byte| {
                let mut write = *cell;
                write.bits = cell.bits & !WRITTEN | (cell.bits & WRITTEN) >> byte & 1;
                ByteCell { write, reads: Vec::new() }
            });
            for warp in self.readers.clone() {
                let read = self.reads[warp * words + word as usize];
                if read.stamp != 0 {
                    bytes.iter_mut().for_each(|b| b.reads.push((warp as u16, read)));
                }
            }
            cell.bits |= SPLIT;
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
            if partial || cell.bits & SPLIT != 0 {
                let mask = byte_mask(address, bytes, word as u32);
                conflict = conflict.or(self.write_slow(clock, actor, word as u32, mask, &same_value));
                continue;
            }
            conflict = conflict.or(self.check_write(clock, actor, word, &same_value));
            self.cells[word] = Cell {
                time: clock.now,
                pc: actor.pc,
                warp: clock.warp as u16,
                lane: actor.lane as u8,
                bits: WRITTEN | if actor.atomic { ATOMIC } else { 0 },
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
        if cell.bits & IN_FLIGHT != 0 {
            return Some(Conflict::InFlight(self.write_event(cell)));
        }
        if self.flying[word] != 0 {
            return Some(self.flying_read(word));
        }
        if cell.time > clock.seen(cell.warp) {
            let benign = cell.pc == actor.pc && u32::from(cell.warp) == clock.warp && same_value();
            if let (false, Some(found)) = (benign, self.unordered_write(clock, actor, cell)) {
                return Some(found);
            }
        }
        self.check_reads(clock, actor, word)
    }

    /// Whether a read of the word is not ordered before a write now.
    #[inline]
    fn check_reads(&self, clock: &WarpClock, actor: Actor, word: usize) -> Option<Conflict> {
        let words = self.cells.len();
        for warp in self.readers.clone() {
            let read = self.reads[warp * words + word];
            if read.time() > clock.seen(warp as u16)
                && let Some(found) = self.unordered_read(clock, actor, warp as u16, read)
            {
                return Some(found);
            }
        }
        None
    }

    #[cold]
    fn unordered_read(&self, clock: &WarpClock, actor: Actor, warp: u16, read: Read) -> Option<Conflict> {
        if clock.sees(self.cluster, u32::from(warp), lane_of(read.lane()), read.time(), actor.lane) {
            return None;
        }
        let access = if u32::from(read.lane()) == WHOLE_WARP { Access::AsyncRead } else { Access::Read };
        Some(Conflict::Race(self.event(access, warp, read.lane(), read.pc)))
    }

    /// The asynchronous read of a word that is going on.
    #[cold]
    fn flying_read(&self, word: usize) -> Conflict {
        let words = self.cells.len();
        let latest = self.readers.clone().max_by_key(|warp| self.reads[warp * words + word].stamp).unwrap_or(0);
        let read = self.reads[latest * words + word];
        Conflict::InFlight(self.event(Access::AsyncRead, latest as u16, read.lane(), read.pc))
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
        match cell.bits & BARRIER {
            BARRIER => return Some(Conflict::Barrier),
            IN_FLIGHT => return Some(Conflict::InFlight(self.write_event(&cell))),
            _ => {}
        }
        if self.flying[word as usize] != 0 {
            return Some(self.flying_read(word as usize));
        }
        let mut old: [ByteCell; 4] = self.split_word(word).clone();
        let mut conflict = None;
        for cell in old.iter_mut().enumerate().filter(|(b, _)| mask >> b & 1 != 0).map(|(_, cell)| cell) {
            let write = cell.write;
            if write.time > clock.seen(write.warp) {
                let benign = write.pc == actor.pc && u32::from(write.warp) == clock.warp && same_value();
                if !benign {
                    conflict = conflict.or_else(|| self.unordered_write(clock, actor, &write));
                }
            }
            for (warp, read) in &cell.reads {
                if read.time() > clock.seen(*warp) {
                    conflict = conflict.or_else(|| self.unordered_read(clock, actor, *warp, *read));
                }
            }
            cell.reads.clear();
            cell.write = Cell {
                time: clock.now,
                pc: actor.pc,
                warp: clock.warp as u16,
                lane: actor.lane as u8,
                bits: 1 | if actor.atomic { ATOMIC } else { 0 },
            };
        }
        if mask == 0xf {
            // Written as a whole: one cell is enough again.
            self.split.remove(&word);
            let mut whole = old[0].write;
            whole.bits |= WRITTEN;
            self.cells[word as usize] = whole;
            let words = self.cells.len();
            self.readers.clone().for_each(|warp| self.reads[warp * words + word as usize] = Read::default());
        } else {
            *self.split_word(word) = old;
        }
        conflict
    }

    /// An asynchronous copy into whole words is issued (`cp.async`). Until [`Self::end_copy`] every touch is
    /// reported.
    pub fn begin_copy(&mut self, clock: &WarpClock, actor: Actor, address: u32, bytes: u32) -> Option<Conflict> {
        let mut conflict = None;
        for word in (address >> 2)..(address + bytes).div_ceil(4) {
            if self.cells[word as usize].bits & SPLIT != 0 {
                conflict = conflict.or(self.write_slow(clock, actor, word, 0xf, &|| false));
            } else {
                conflict = conflict.or(self.check_write(clock, actor, word as usize, &|| false));
            }
            if self.cells[word as usize].bits & BARRIER == BARRIER {
                continue;
            }
            self.cells[word as usize] = Cell {
                time: clock.now,
                pc: actor.pc,
                warp: clock.warp as u16,
                lane: actor.lane as u8,
                bits: WRITTEN | IN_FLIGHT,
            };
        }
        conflict
    }

    /// The lane that issued the copy has waited for it: from now on it counts as a write of that lane.
    pub fn end_copy(&mut self, clock: &WarpClock, lane: u32, address: u32, bytes: u32) {
        for cell in &mut self.cells[(address >> 2) as usize..(address + bytes).div_ceil(4) as usize] {
            let own = u32::from(cell.warp) == clock.warp && u32::from(cell.lane) == lane;
            if own && cell.bits & BARRIER == IN_FLIGHT {
                cell.bits &= !IN_FLIGHT;
                cell.time = clock.now;
            }
        }
    }

    /// The words of a range of bytes.
    fn words(&self, address: u32, bytes: u32) -> Range<usize> {
        (address >> 2) as usize..((address + bytes).div_ceil(4) as usize).min(self.cells.len())
    }

    /// A copy of the async proxy into whole words is issued. Until [`Self::end_bulk`] every touch is reported.
    /// `fence_reads`: also earlier reads need a proxy fence.
    pub fn begin_bulk(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        address: u32,
        bytes: u32,
        fence_reads: bool,
    ) -> Option<(u32, Conflict)> {
        let words = self.words(address, bytes);
        let mut conflict = self.check_cells(clock, actor, words.clone());
        let flying = self.flying[words.clone()].iter().fold(0, |all, count| all | count);
        if conflict.is_none() && flying != 0 {
            let word = words.clone().find(|word| self.flying[*word] != 0).unwrap_or(words.start);
            conflict = Some((word as u32 * 4, self.flying_read(word)));
        }
        if conflict.is_none() {
            conflict = self.check_range_reads(clock, actor, words.clone(), fence_reads);
        }
        let cell = Cell {
            time: clock.now,
            pc: actor.pc,
            warp: clock.warp as u16,
            lane: actor.lane as u8,
            bits: WRITTEN | IN_FLIGHT | ASYNC,
        };
        for word in words {
            let old = &mut self.cells[word];
            match old.bits & BARRIER {
                BARRIER => continue,
                SPLIT => {
                    self.split.remove(&(word as u32));
                }
                _ => {}
            }
            *old = cell;
        }
        conflict
    }

    /// The copy is complete: what it wrote is visible to those who have waited for the agent at that time.
    pub fn end_bulk(&mut self, agent: u16, issuer: u32, time: u32, address: u32, bytes: u32) {
        self.issuers.insert(agent, issuer as u16);
        let words = self.words(address, bytes);
        for cell in &mut self.cells[words] {
            if cell.bits & BARRIER == IN_FLIGHT {
                cell.bits &= !IN_FLIGHT;
                cell.warp = agent;
                cell.time = time;
            }
        }
    }

    /// What was copied into the byte at `address` was never written where it came from.
    pub fn undefine(&mut self, address: u32) {
        if let Some(cell) = self.cells.get_mut((address >> 2) as usize)
            && cell.bits & (SPLIT | IN_FLIGHT) == 0
        {
            cell.bits &= !(1 << (address & 3));
        }
    }

    /// What is wrong with the writes that an asynchronous access of these words follows.
    fn check_cells(&self, clock: &WarpClock, actor: Actor, words: Range<usize>) -> Option<(u32, Conflict)> {
        let fenced = &clock.fenced_proxy.times;
        let suspicious = |cell: &Cell| {
            let unfenced =
                cell.bits & ASYNC == 0 && cell.time > fenced.get(usize::from(cell.warp)).copied().unwrap_or(0);
            cell.bits & (IN_FLIGHT | SPLIT) != 0 || cell.time > clock.seen(cell.warp) || unfenced
        };
        if !self.cells[words.clone()].iter().fold(false, |any, cell| any | suspicious(cell)) {
            return None;
        }
        let mut unfenced = None;
        for word in words.filter(|word| suspicious(&self.cells[*word])) {
            let cell = self.cells[word];
            let bytes = match cell.bits & BARRIER {
                BARRIER => return Some((word as u32 * 4, Conflict::Barrier)),
                IN_FLIGHT => return Some((word as u32 * 4, Conflict::InFlight(self.write_event(&cell)))),
                SPLIT => self.split[&(word as u32)].iter().map(|byte| byte.write).collect(),
                _ => vec![cell],
            };
            for write in bytes {
                if write.time > clock.seen(write.warp)
                    && let Some(found) = self.unordered_write(clock, actor, &write)
                {
                    return Some((word as u32 * 4, found));
                }
                let is_fenced = || clock.is_fenced(u32::from(write.warp), lane_of(write.lane), write.time);
                if write.bits & ASYNC == 0 && write.time != 0 && unfenced.is_none() && !is_fenced() {
                    unfenced = Some((word as u32 * 4, Conflict::Unfenced(self.write_event(&write))));
                }
            }
        }
        unfenced
    }

    /// Whether a read of these words is not ordered before an asynchronous write now.
    fn check_range_reads(
        &self,
        clock: &WarpClock,
        actor: Actor,
        words: Range<usize>,
        fence_reads: bool,
    ) -> Option<(u32, Conflict)> {
        let size = self.cells.len();
        let chunks = (size >> CHUNK) + 1;
        for warp in self.readers.clone() {
            let fenced = clock.fenced_proxy.times.get(warp).copied().unwrap_or(0);
            let seen = clock.seen(warp as u16);
            let limit = if fence_reads { seen.min(fenced) } else { seen };
            for chunk in words.start >> CHUNK..=words.end.saturating_sub(1) >> CHUNK {
                if self.last_reads[warp * chunks + chunk] <= limit {
                    continue;
                }
                for word in words.start.max(chunk << CHUNK)..words.end.min((chunk + 1) << CHUNK) {
                    let split = (self.cells[word].bits & BARRIER == SPLIT).then(|| &self.split[&(word as u32)]);
                    let whole = (warp as u16, self.reads[warp * size + word]);
                    let of_bytes = split.into_iter().flat_map(|bytes| bytes.iter().flat_map(|byte| &byte.reads));
                    let reads = of_bytes.filter(|(of, _)| usize::from(*of) == warp).chain([&whole]);
                    for (_, read) in reads.filter(|(_, read)| read.time() > limit) {
                        if read.time() > seen
                            && let Some(found) = self.unordered_read(clock, actor, warp as u16, *read)
                        {
                            return Some((word as u32 * 4, found));
                        }
                        let generic = u32::from(read.lane()) != WHOLE_WARP;
                        if fence_reads && generic && !clock.is_fenced(warp as u32, lane_of(read.lane()), read.time()) {
                            let event = self.event(Access::Read, warp as u16, read.lane(), read.pc);
                            return Some((word as u32 * 4, Conflict::Unfenced(event)));
                        }
                    }
                }
            }
        }
        None
    }

    /// A read by the async proxy is issued (the source of a bulk store, an operand of wgmma): earlier writes must be
    /// ordered before it and behind a proxy fence. Until [`Self::end_async_read`] a write is a conflict.
    pub fn begin_async_read(&mut self, clock: &WarpClock, actor: Actor, address: u32, bytes: u32) -> Option<Conflict> {
        self.begin_async_read_at(clock, actor, address, bytes).map(|(_, conflict)| conflict)
    }

    /// As [`Self::begin_async_read`]; also tells where the conflict is.
    pub fn begin_async_read_at(
        &mut self,
        clock: &WarpClock,
        actor: Actor,
        address: u32,
        bytes: u32,
    ) -> Option<(u32, Conflict)> {
        let words = self.words(address, bytes);
        if words.is_empty() {
            return None;
        }
        let conflict = self.check_cells(clock, actor, words.clone());
        self.note_reads(clock, words.start, words.end - 1);
        self.flying[words.clone()].iter_mut().for_each(|count| *count = count.saturating_add(1));
        let base = clock.warp as usize * self.cells.len();
        let read = Read { stamp: clock.now << 6 | WHOLE_WARP, pc: actor.pc };
        self.reads[base + words.start..base + words.end].fill(read);
        conflict
    }

    /// The warp has waited for its asynchronous read, which counts as a read at its present time: by the lane, or by
    /// the warp as a whole if the lane is [`WHOLE_WARP`].
    pub fn end_async_read(&mut self, clock: &WarpClock, lane: u32, address: u32, bytes: u32) {
        let words = self.words(address, bytes);
        if words.is_empty() {
            return;
        }
        self.note_reads(clock, words.start, words.end - 1);
        self.flying[words.clone()].iter_mut().for_each(|count| *count = count.saturating_sub(1));
        let base = clock.warp as usize * self.cells.len();
        let stamp = clock.now << 6 | lane.min(WHOLE_WARP);
        self.reads[base + words.start..base + words.end].iter_mut().for_each(|read| read.stamp = stamp);
    }

    /// The asynchronous read is over, and nobody in particular has waited for it.
    pub fn drop_async_read(&mut self, address: u32, bytes: u32) {
        let words = self.words(address, bytes);
        self.flying[words].iter_mut().for_each(|count| *count = count.saturating_sub(1));
    }

    /// An mbarrier is made in these eight bytes. It counts as a write.
    pub fn begin_barrier(&mut self, clock: &WarpClock, actor: Actor, address: u32) -> Option<Conflict> {
        let mut conflict = None;
        for word in address >> 2..(address >> 2) + 2 {
            if self.cells[word as usize].bits & BARRIER != BARRIER {
                conflict = conflict.or(self.write(clock, actor, word * 4, 4, || false));
            }
            self.cells[word as usize].bits |= BARRIER;
        }
        conflict
    }

    /// The mbarrier is gone; its bytes hold nothing.
    pub fn end_barrier(&mut self, clock: &WarpClock, actor: Actor, address: u32) {
        for cell in &mut self.cells[(address >> 2) as usize..(address >> 2) as usize + 2] {
            let warp = clock.warp as u16;
            *cell = Cell { time: clock.now, pc: actor.pc, warp, lane: actor.lane as u8, bits: 0 };
        }
    }
}

/// The bytes of `word` that the access covers.
fn byte_mask(address: u32, bytes: u32, word: u32) -> u8 {
    let start = u64::from(word) * 4;
    let (from, to) = (u64::from(address), u64::from(address) + u64::from(bytes));
    (0..4).filter(|b| (from..to).contains(&(start + b))).fold(0, |mask, b| mask | 1 << b)
}
