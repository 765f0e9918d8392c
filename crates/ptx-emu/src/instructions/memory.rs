//! `ld` and `st` in every state space.

use super::address::{addresses, set_address};
use super::movement::window_of;
use super::{global, local};
use crate::Error;
use crate::counters::shared_wavefronts;
use crate::decode::layout::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::decode::{Decoder, Form, Inst};
use crate::hazard::Access;
use crate::machine::cluster::rank_of;
use crate::machine::lanes::{long1, word1};
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::{Class, Operand, ScalarType, Space};
use crate::shadow::clock::{Knowledge, join};

/// The bytes that each lane moves, up to 16.
pub(super) type Data = [[u32; 4]; 32];

/// log2 of the element size.
const SIZE_MASK: u32 = 3;
const SIGNED: u32 = 1 << 2;
/// Destination registers have 16 bits.
const SHORT_REGISTER: u32 = 1 << 3;
/// Registers have 64 bits and the elements fewer.
const LONG_REGISTER: u32 = 1 << 7;
/// A volatile, relaxed or ordered access.
pub(super) const STRONG: u32 = 1 << 4;
/// An acquiring load or releasing store.
pub(super) const ORDERED: u32 = 1 << 5;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "ld" | "ldu" => load(d, f),
        "st" => store(d, f),
        _ => prefetch(d, f),
    }
}

pub(super) fn space(f: &Form<'_>) -> Space {
    let spaces = [
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("shared::cluster", Space::Shared),
        ("local", Space::Local),
        ("const", Space::Const),
        ("param", Space::Param),
        ("param::entry", Space::Param),
    ];
    f.choose(&spaces).unwrap_or(Space::Generic)
}

/// Takes the modifiers of the memory model and returns flags.
fn strength(f: &Form<'_>) -> u32 {
    let flags = f.choose(&[
        ("volatile", STRONG),
        ("relaxed", STRONG),
        ("acquire", STRONG | ORDERED),
        ("release", STRONG | ORDERED),
        ("weak", 0),
    ]);
    f.choose(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())]);
    flags.unwrap_or(0)
}

fn vector_length(f: &Form<'_>) -> usize {
    f.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1)
}

/// Type, flags and checks common to loads and stores.
fn shape(d: &mut Decoder<'_>, f: &Form<'_>, space: Space) -> Result<(ScalarType, usize, u32), Error> {
    let mut flags = strength(f);
    f.skip_cache_hints();
    let length = vector_length(f);
    let ty = f.ty()?;
    if ty == ScalarType::Pred || ty.bytes() * length as u32 > 16 {
        return Err(f.unsupported("an access has at most 16 bytes"));
    }
    if flags & STRONG != 0 && matches!(space, Space::Global | Space::Generic) {
        d.program.communicates = true;
    }
    flags |= ty.bytes().trailing_zeros() | if ty.is_signed() { SIGNED } else { 0 };
    Ok((ty, length, flags))
}

fn load(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let space = space(f);
    let (ty, length, mut flags) = shape(d, f, space)?;
    f.expect_operands(2..=2)?;
    let register_type = register_type(d, f.operand(0)?, ty, &mut flags);
    let rows = d.vector(f, f.operand(0)?, register_type, true)?;
    if rows.len() != length {
        return Err(f.unsupported(format!("{} registers for {length} elements", rows.len())));
    }
    if ty.bytes() <= 2 && d.is_short(f.operand(0)?) {
        flags |= SHORT_REGISTER;
    }
    if space == Space::Param
        && let Some(inst) = constant_parameter(d, f, ty, &rows)?
    {
        return Ok(inst);
    }
    let handler: Handler = match space {
        Space::Global | Space::Const => load_from::<GLOBAL>,
        Space::Shared => load_from::<SHARED>,
        Space::Local => load_from::<LOCAL>,
        Space::Param => load_from::<PARAM>,
        Space::Generic => load_from::<GENERIC>,
    };
    let mut inst = Inst::new(handler);
    inst.flags = flags;
    inst.rows = rows;
    let address = d.address(f, f.operand(1)?)?;
    set_address(&mut inst, address);
    Ok(inst)
}

/// The type of the registers of an access: they may be wider than its elements.
fn register_type(d: &Decoder<'_>, operand: &Operand, ty: ScalarType, flags: &mut u32) -> ScalarType {
    if ty.class() == Class::Word && d.is_long(operand) {
        *flags |= LONG_REGISTER;
        return ScalarType::U64;
    }
    ty
}

/// A parameter is known when the launch is decoded: its load becomes a move of a constant.
fn constant_parameter(d: &mut Decoder<'_>, f: &Form<'_>, ty: ScalarType, rows: &[u32]) -> Result<Option<Inst>, Error> {
    let Operand::Address(base, offset) = f.operand(1)? else { return Ok(None) };
    let (Operand::Symbol(name, more), [row]) = (&**base, rows) else { return Ok(None) };
    let Some(parameter) = d.kernel.parameters.iter().find(|p| p.name == *name) else { return Ok(None) };
    let size = ty.bytes() as usize;
    let start = usize::try_from(offset.wrapping_add(*more)).ok();
    let inside = start.filter(|start| start.checked_add(size).is_some_and(|end| end <= parameter.bytes));
    let Some(start) = inside.filter(|start| start % size == 0) else { return Ok(None) };
    let mut bits = [0u8; 8];
    bits[..size].copy_from_slice(&d.bindings.parameters[parameter.offset + start..][..size]);
    let bits = u64::from_le_bytes(bits);
    let mut inst = Inst::new(|_, _, _| Step::Next);
    inst.d = *row;
    if d.is_long(f.operand(0)?) {
        let unused = 64 - ty.bits();
        let extended = if ty.is_signed() { ((bits << unused) as i64 >> unused) as u64 } else { bits };
        inst.handler = long1!(|a| a);
        inst.a = d.long_constant(extended);
    } else {
        inst.handler = word1!(|a| a);
        let value = extend(bits as u32, ty.bytes().trailing_zeros(), ty.is_signed(), d.is_short(f.operand(0)?));
        inst.a = d.word_constant(value);
    }
    Ok(Some(inst))
}

fn store(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let space = space(f);
    let (ty, length, mut flags) = shape(d, f, space)?;
    f.expect_operands(2..=2)?;
    let handler: Handler = match space {
        Space::Global => store_to::<GLOBAL>,
        Space::Shared => store_to::<SHARED>,
        Space::Local => store_to::<LOCAL>,
        Space::Generic => store_to::<GENERIC>,
        Space::Const => return Err(f.unsupported("constant memory cannot be written")),
        Space::Param => {
            return Err(f.unsupported("it passes an argument, and calls of device functions are not modelled"));
        }
    };
    let register_type = register_type(d, f.operand(1)?, ty, &mut flags);
    let mut inst = Inst::new(handler);
    inst.flags = flags;
    inst.rows = d.vector(f, f.operand(1)?, register_type, false)?;
    if inst.rows.len() != length {
        return Err(f.unsupported(format!("{} registers for {length} elements", inst.rows.len())));
    }
    let address = d.address(f, f.operand(0)?)?;
    set_address(&mut inst, address);
    Ok(inst)
}

const GLOBAL: u8 = 0;
const SHARED: u8 = 1;
const LOCAL: u8 = 2;
const PARAM: u8 = 3;
const GENERIC: u8 = 4;

fn total_bytes(i: &Inst) -> u32 {
    (i.rows.len() as u32) << (i.flags & SIZE_MASK)
}

fn load_from<const SPACE: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let all = addresses(x, i, mask);
    let bytes = total_bytes(i);
    let mut data: Data = [[u32::MAX; 4]; 32];
    let ok = match SPACE {
        GLOBAL => load_global(x, i, &all, mask, &mut data),
        SHARED => load_shared(x, i, &all, mask, &mut data),
        LOCAL => local::load(x, &all, mask, bytes, &mut data),
        PARAM => load_parameter(x, &all, mask, bytes, &mut data),
        _ => by_window(&all, mask, |space, lanes, shifted| match space {
            Space::Shared => load_shared(x, i, shifted, lanes, &mut data),
            Space::Local => local::load(x, shifted, lanes, bytes, &mut data),
            Space::Param => load_parameter(x, shifted, lanes, bytes, &mut data),
            _ => load_global(x, i, shifted, lanes, &mut data),
        }),
    };
    if !ok {
        return Step::Fault;
    }
    scatter(x, i, mask, &data);
    Step::Next
}

fn store_to<const SPACE: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let all = addresses(x, i, mask);
    let bytes = total_bytes(i);
    let mut data: Data = [[0; 4]; 32];
    gather(x, i, mask, &mut data);
    let ok = match SPACE {
        GLOBAL => store_global(x, i, &all, mask, &data),
        SHARED => store_shared(x, i, &all, mask, &data),
        LOCAL => local::store(x, &all, mask, bytes, &data),
        _ => by_window(&all, mask, |space, lanes, shifted| match space {
            Space::Shared => store_shared(x, i, shifted, lanes, &data),
            Space::Local => local::store(x, shifted, lanes, bytes, &data),
            _ => store_global(x, i, shifted, lanes, &data),
        }),
    };
    if ok { Step::Next } else { Step::Fault }
}

fn load_global(x: &mut Exec<'_>, i: &Inst, all: &[u64; 32], mask: u32, data: &mut Data) -> bool {
    let strong = i.flags & STRONG != 0;
    let ok = global::load(x, all, mask, total_bytes(i), strong, data);
    if ok && strong {
        acquire(x, i.flags & ORDERED != 0, mask, all, false);
    }
    ok
}

fn store_global(x: &mut Exec<'_>, i: &Inst, all: &[u64; 32], mask: u32, data: &Data) -> bool {
    let strong = i.flags & STRONG != 0;
    if strong {
        release(x, i.flags & ORDERED != 0, mask, all, false);
    }
    global::store(x, all, mask, total_bytes(i), strong, data)
}

/// Splits addresses of shared memory by the block of the cluster they name.
pub(super) fn by_rank(
    x: &mut Exec<'_>,
    all: &[u64; 32],
    mask: u32,
    mut access: impl FnMut(&mut Exec<'_>, u32, &[u64; 32]) -> bool,
) -> bool {
    let mut rest = mask;
    while rest != 0 {
        let lane = rest.trailing_zeros() as usize;
        let (rank, address) = rank_of(all[lane]);
        let same = each_lane(rest).filter(|l| rank_of(all[*l]).0 == rank).fold(0, |same, lane| same | 1u32 << lane);
        rest &= !same;
        let ok = match rank {
            None => access(x, same, all),
            Some(rank) => {
                let shifted = all.map(|address| u64::from(rank_of(address).1));
                x.in_block(rank, lane, address, |x| access(x, same, &shifted)).unwrap_or(true)
            }
        };
        if !ok {
            return false;
        }
    }
    true
}

/// Splits generic addresses by the window they point into.
pub(super) fn by_window(all: &[u64; 32], mask: u32, mut access: impl FnMut(Space, u32, &[u64; 32]) -> bool) -> bool {
    let mut rest = mask;
    while rest != 0 {
        let space = window_of(all[rest.trailing_zeros() as usize]);
        let same = each_lane(rest).filter(|l| window_of(all[*l]) == space).fold(0, |same, lane| same | 1u32 << lane);
        let shift = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => 0,
        };
        if !access(space, same, &all.map(|address| address.wrapping_sub(shift))) {
            return false;
        }
        rest &= !same;
    }
    true
}

/// Zero- or sign-extends a narrow value to its register.
fn extend(value: u32, size_log2: u32, signed: bool, short_register: bool) -> u32 {
    let bits = 8 << size_log2;
    if bits >= 32 {
        return value;
    }
    let unused = 32 - bits;
    if !signed {
        return value << unused >> unused;
    }
    let wide = (((value << unused) as i32) >> unused) as u32;
    if short_register { wide & 0xffff } else { wide }
}

/// Distributes loaded bytes to the destination rows.
fn scatter(x: &mut Exec<'_>, i: &Inst, mask: u32, data: &Data) {
    let size = i.flags & SIZE_MASK;
    if i.flags & LONG_REGISTER != 0 {
        for (at, row) in i.rows.iter().enumerate() {
            let (byte, unused) = (at << size, 64 - (8 << size));
            let values = data.map(|words| {
                let bits = u64::from(words[(byte / 4) & 3] >> (8 * (byte % 4))) << unused;
                if i.flags & SIGNED != 0 { (bits as i64 >> unused) as u64 } else { bits >> unused }
            });
            x.set_long(*row, mask, &values);
        }
        return;
    }
    for (at, row) in i.rows.iter().enumerate() {
        match size {
            3 => {
                let values =
                    data.map(|words| u64::from(words[(2 * at) & 3]) | u64::from(words[(2 * at + 1) & 3]) << 32);
                x.set_long(*row, mask, &values);
            }
            2 => {
                let mut values = [0; 32];
                for lane in 0..32 {
                    values[lane] = data[lane][at & 3];
                }
                x.set_word(*row, mask, &values);
            }
            _ => {
                let byte = at << size;
                let (signed, short) = (i.flags & SIGNED != 0, i.flags & SHORT_REGISTER != 0);
                let values = data.map(|words| extend(words[(byte / 4) & 3] >> (8 * (byte % 4)), size, signed, short));
                x.set_word(*row, mask, &values);
            }
        }
    }
}

/// Collects the bytes to store from the source rows.
fn gather(x: &mut Exec<'_>, i: &Inst, mask: u32, data: &mut Data) {
    let size = i.flags & SIZE_MASK;
    let long = i.flags & LONG_REGISTER != 0;
    let narrow = |x: &mut Exec<'_>, row: u32| {
        if long { x.long(row, mask).map(|value| value as u32) } else { x.word(row, mask) }
    };
    for (at, row) in i.rows.iter().enumerate() {
        match size {
            3 => {
                let values = x.long(*row, mask);
                for (words, value) in data.iter_mut().zip(values) {
                    words[(2 * at) & 3] = value as u32;
                    words[(2 * at + 1) & 3] = (value >> 32) as u32;
                }
            }
            2 => {
                let values = narrow(x, *row);
                for lane in 0..32 {
                    data[lane][at & 3] = values[lane];
                }
            }
            _ => {
                let byte = at << size;
                let keep = (1u32 << (8 << size)) - 1;
                let values = narrow(x, *row);
                for (words, value) in data.iter_mut().zip(values) {
                    words[(byte / 4) & 3] |= (value & keep) << (8 * (byte % 4));
                }
            }
        }
    }
}

/// Checks bounds of shared accesses; `false` after a report.
#[inline(always)]
pub(super) fn shared_bounds(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, access: Access) -> bool {
    let limit = u64::from(x.launch.shared_bytes);
    let mut highest = 0;
    for lane in 0..32 {
        highest = if mask >> lane & 1 != 0 { all[lane].max(highest) } else { highest };
    }
    if highest.saturating_add(u64::from(bytes)) <= limit {
        return true;
    }
    let outside = each_lane(mask).find(|lane| all[*lane].saturating_add(u64::from(bytes)) > limit);
    let lane = outside.unwrap_or(0);
    x.out_of_bounds(Space::Shared, access, lane, all[lane], bytes);
    false
}

fn load_shared(x: &mut Exec<'_>, i: &Inst, all: &[u64; 32], mask: u32, data: &mut Data) -> bool {
    let (bytes, strong) = (total_bytes(i), i.flags & STRONG != 0);
    by_rank(x, all, mask, |x, lanes, inside| {
        let ok = load_own_shared(x, inside, lanes, bytes, strong, data);
        if ok && strong {
            acquire(x, i.flags & ORDERED != 0, lanes, inside, true);
        }
        ok
    })
}

fn load_own_shared(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, strong: bool, data: &mut Data) -> bool {
    if !shared_bounds(x, all, mask, bytes, Access::Read) {
        return false;
    }
    let mask = x.aligned(Space::Shared, Access::Read, all, mask, bytes);
    let narrow = all.map(|address| address as u32);
    x.block.tally.shared[0].add(shared_wavefronts(&narrow, mask, bytes));
    let checks = x.launch.options.checks;
    for lane in each_lane(mask) {
        let address = narrow[lane];
        x.check_shared_read(checks, lane, address, bytes, strong);
        fetch(&x.block.shared, address as usize, bytes, &mut data[lane]);
    }
    true
}

/// Copies up to 16 bytes out of shared memory.
#[inline(always)]
pub(super) fn fetch(shared: &[u8], start: usize, bytes: u32, words: &mut [u32; 4]) {
    let source = &shared[start..start + bytes as usize];
    if bytes >= 4 {
        for (word, chunk) in words.iter_mut().zip(source.chunks_exact(4)) {
            *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
    } else {
        words[0] = source.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
    }
}

impl Exec<'_> {
    /// Checks one lane's read of shared memory.
    #[inline(always)]
    pub fn check_shared_read(&mut self, checks: crate::Checks, lane: usize, address: u32, bytes: u32, strong: bool) {
        let defined = if checks.shared_races {
            let actor = self.actor(lane as u32, strong);
            let (conflict, defined) = self.block.shared_shadow.read(&self.warp.clock, actor, address, bytes);
            if let Some(conflict) = conflict {
                let access = if strong { Access::Atomic } else { Access::Read };
                self.report_conflict(Space::Shared, access, lane, u64::from(address), conflict);
            }
            defined
        } else {
            !checks.uninitialized_memory || self.block.shared_shadow.is_written(address, bytes)
        };
        if !defined && checks.uninitialized_memory {
            self.report_uninitialized(Space::Shared, lane, u64::from(address), bytes);
        }
    }

    /// Checks one lane's write of shared memory.
    #[inline(always)]
    pub fn check_shared_write(&mut self, lane: usize, address: u32, bytes: u32, strong: bool, words: &[u32; 4]) {
        let actor = self.actor(lane as u32, strong);
        let shared = &self.block.shared;
        let same = || {
            let mut now = [0; 4];
            fetch(shared, address as usize, bytes, &mut now);
            let count = bytes.div_ceil(4) as usize;
            now[..count] == words[..count]
        };
        let conflict = self.block.shared_shadow.write(&self.warp.clock, actor, address, bytes, same);
        if let Some(conflict) = conflict.filter(|_| self.launch.options.checks.shared_races) {
            let access = if strong { Access::Atomic } else { Access::Write };
            self.report_conflict(Space::Shared, access, lane, u64::from(address), conflict);
        }
    }
}

fn store_shared(x: &mut Exec<'_>, i: &Inst, all: &[u64; 32], mask: u32, data: &Data) -> bool {
    let (bytes, strong) = (total_bytes(i), i.flags & STRONG != 0);
    by_rank(x, all, mask, |x, lanes, inside| {
        if strong {
            release(x, i.flags & ORDERED != 0, lanes, inside, true);
        }
        store_own_shared(x, inside, lanes, bytes, strong, data)
    })
}

fn store_own_shared(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, strong: bool, data: &Data) -> bool {
    if !shared_bounds(x, all, mask, bytes, Access::Write) {
        return false;
    }
    let mask = x.aligned(Space::Shared, Access::Write, all, mask, bytes);
    let narrow = all.map(|address| address as u32);
    x.block.tally.shared[1].add(shared_wavefronts(&narrow, mask, bytes));
    let checks = x.launch.options.checks;
    for lane in each_lane(mask) {
        let address = narrow[lane];
        if checks.shared_races || checks.uninitialized_memory {
            x.check_shared_write(lane, address, bytes, strong, &data[lane]);
        }
        put(&mut x.block.shared, address as usize, bytes, &data[lane]);
    }
    true
}

/// Copies up to 16 bytes into shared memory.
#[inline(always)]
pub(super) fn put(shared: &mut [u8], start: usize, bytes: u32, words: &[u32; 4]) {
    let target = &mut shared[start..start + bytes as usize];
    if bytes >= 4 {
        for (word, chunk) in words.iter().zip(target.chunks_exact_mut(4)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    } else {
        target.copy_from_slice(&words[0].to_le_bytes()[..bytes as usize]);
    }
}

fn load_parameter(x: &mut Exec<'_>, all: &[u64; 32], mask: u32, bytes: u32, data: &mut Data) -> bool {
    let mask = x.aligned(Space::Param, Access::Read, all, mask, bytes);
    for lane in each_lane(mask) {
        let offset = all[lane].wrapping_sub(crate::decode::layout::PARAMETER_WINDOW);
        let end = offset.saturating_add(u64::from(bytes));
        if end > x.launch.parameters.len() as u64 {
            x.out_of_bounds(Space::Param, Access::Read, lane, offset, bytes);
            return false;
        }
        fetch(&x.launch.parameters, offset as usize, bytes, &mut data[lane]);
    }
    true
}

/// Where a synchronising access counts: whether in shared memory, and the address there. Generic addresses are sorted
/// out, so that they meet accesses that name the space.
fn sync_place(address: u64, shared: bool) -> (bool, u64) {
    match window_of(address) {
        _ if shared => (true, address),
        Space::Shared => (true, address - SHARED_WINDOW),
        _ => (false, address),
    }
}

/// A strong load sees what was published at its address: `acquire` takes it over at once, a relaxed
/// load leaves it to the next fence.
pub(super) fn acquire(x: &mut Exec<'_>, ordered: bool, mask: u32, all: &[u64; 32], shared: bool) {
    for lane in each_lane(mask) {
        let (shared, address) = sync_place(all[lane], shared);
        let map = if shared { &x.block.shared_sync } else { &x.block.global_sync };
        let Some(knowledge) = map.get(&address) else { continue };
        if ordered {
            x.warp.clock.acquire(knowledge);
        } else {
            x.warp.clock.observe(knowledge);
        }
    }
}

/// What a strong store or atomic publishes at its address.
pub(super) fn published(x: &mut Exec<'_>, ordered: bool) -> Option<Knowledge> {
    if ordered { Some(x.warp.clock.release()) } else { x.warp.clock.fenced().cloned() }
}

/// A strong store replaces what was published at its address.
fn release(x: &mut Exec<'_>, ordered: bool, mask: u32, all: &[u64; 32], shared: bool) {
    let knowledge = published(x, ordered);
    for lane in each_lane(mask) {
        let (shared, address) = sync_place(all[lane], shared);
        let map = if shared { &mut x.block.shared_sync } else { &mut x.block.global_sync };
        match &knowledge {
            Some(knowledge) => {
                map.insert(address, knowledge.clone());
            }
            None => {
                map.remove(&address);
            }
        }
    }
}

/// An atomic adds to what was published at its address: it goes on the chain it reads from.
pub(super) fn extend_release(x: &mut Exec<'_>, ordered: bool, address: u64, shared: bool) {
    if let Some(knowledge) = published(x, ordered) {
        let map = if shared { &mut x.block.shared_sync } else { &mut x.block.global_sync };
        join(map.entry(address).or_default(), &knowledge);
    }
}

/// Prefetches and cache management move no data.
fn prefetch(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    space(f);
    f.skip_cache_hints();
    f.accept("tensormap");
    f.choose(&[("L1", ()), ("L2", ()), ("uniform", ())]);
    f.choose(&[("L2::evict_last", ()), ("L2::evict_normal", ())]);
    let mut inst = Inst::new(|x, i, mask| {
        addresses(x, i, mask);
        Step::Next
    });
    let address = d.address(f, f.operand(0)?)?;
    set_address(&mut inst, address);
    Ok(inst)
}
