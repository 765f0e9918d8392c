//! `mbarrier`. See [`crate::machine::mbarrier`] for the objects.

use super::address::{addresses, set_address};
use super::memory::shared_bounds;
use crate::Error;
use crate::decode::layout::SHARED_WINDOW;
use crate::decode::{Decoder, Form, Inst};
use crate::hazard::Access;
use crate::machine::cluster::rank_of;
use crate::machine::mbarrier::Arrival;
use crate::machine::{Exec, Step, each_lane};
use crate::module::ScalarType::{B64, Pred, U32};
use crate::module::{Operand, Space};

/// Bytes of an mbarrier.
const BYTES: u32 = 8;

const GENERIC: u32 = 1;
const RELAXED: u32 = 2;
const DROPS: u32 = 4;
const COMPLETES_NOT: u32 = 8;
/// `b` is a row of counts.
const HAS_COUNT: u32 = 16;
/// `c` is a row of bytes to expect.
const EXPECTS: u32 = 32;
/// The state goes to `d`.
const RETURNS: u32 = 64;
/// The wait is for a parity, not for a state.
const PARITY: u32 = 128;
/// The wait may block.
const BLOCKS: u32 = 256;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    #[derive(Clone, Copy)]
    enum Kind {
        Init,
        Invalidate,
        Arrive { drops: bool },
        Expect,
        Complete,
        Wait { blocks: bool },
        Pending,
    }
    let kinds = [
        ("init", Kind::Init),
        ("inval", Kind::Invalidate),
        ("arrive_drop", Kind::Arrive { drops: true }),
        ("arrive", Kind::Arrive { drops: false }),
        ("test_wait", Kind::Wait { blocks: false }),
        ("try_wait", Kind::Wait { blocks: true }),
        ("pending_count", Kind::Pending),
        ("complete_tx", Kind::Complete),
    ];
    let kind = match f.choose(&kinds) {
        Some(kind) => kind,
        None => f.require("the operation", &[("expect_tx", Kind::Expect)])?,
    };
    match kind {
        Kind::Init => init(d, f),
        Kind::Invalidate => {
            let mut inst =
                Inst::new(|x, i, mask| for_each(x, i, mask, |x, lane, address| x.end_mbarrier(lane, address)));
            place(d, f, &mut inst, 0)?;
            f.expect_operands(1..=1)?;
            Ok(inst)
        }
        Kind::Arrive { drops } => arrive(d, f, drops),
        Kind::Expect => change_bytes(d, f, |x, i, mask| {
            let bytes = x.word(i.b, mask);
            for_each(x, i, mask, |x, lane, address| x.change_expected_bytes(lane, address, i64::from(bytes[lane])))
        }),
        Kind::Complete => change_bytes(d, f, |x, i, mask| {
            let bytes = x.word(i.b, mask);
            for_each(x, i, mask, |x, lane, address| x.change_expected_bytes(lane, address, -i64::from(bytes[lane])))
        }),
        Kind::Wait { blocks } => wait(d, f, blocks),
        Kind::Pending => Err(f.unsupported("what a state says of pending arrivals is not modelled")),
    }
}

/// Takes the modifiers of the memory model; whether the access is relaxed.
fn semantics(f: &Form<'_>) -> bool {
    let is_relaxed = f.choose(&[("release", false), ("acquire", false), ("relaxed", true)]).unwrap_or(false);
    f.choose(&[("cta", ()), ("cluster", ())]);
    is_relaxed
}

/// Takes the space, and the address at that operand.
fn place(d: &mut Decoder<'_>, f: &Form<'_>, inst: &mut Inst, operand: usize) -> Result<(), Error> {
    let is_shared = f.choose(&[("shared::cta", ()), ("shared::cluster", ()), ("shared", ())]).is_some();
    f.require("the type", &[("b64", ())])?;
    let address = d.address(f, f.operand(operand)?)?;
    set_address(inst, address);
    inst.flags |= if is_shared { 0 } else { GENERIC };
    Ok(())
}

fn init(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.expect_operands(2..=2)?;
    let mut inst = Inst::new(|x, i, mask| {
        let counts = x.word(i.b, mask);
        for_each(x, i, mask, |x, lane, address| x.init_mbarrier(lane, address, counts[lane]))
    });
    place(d, f, &mut inst, 0)?;
    inst.b = d.source(f, f.operand(1)?, U32)?;
    Ok(inst)
}

fn change_bytes(d: &mut Decoder<'_>, f: &Form<'_>, handler: crate::machine::Handler) -> Result<Inst, Error> {
    semantics(f);
    f.expect_operands(2..=2)?;
    let mut inst = Inst::new(handler);
    place(d, f, &mut inst, 0)?;
    inst.b = d.source(f, f.operand(1)?, U32)?;
    Ok(inst)
}

/// `mbarrier.arrive{.expect_tx}{.noComplete} state, [address]{, count}`
fn arrive(d: &mut Decoder<'_>, f: &Form<'_>, drops: bool) -> Result<Inst, Error> {
    let expects = f.accept("expect_tx");
    let completes_not = f.accept("noComplete");
    let is_relaxed = semantics(f);
    // Arrivals at other blocks return nothing.
    let first = usize::from(!matches!(f.operand(0)?, Operand::Address(..)));
    let mut inst = Inst::new(execute_arrive);
    let mut flags = if drops { DROPS } else { 0 } | if is_relaxed { RELAXED } else { 0 };
    flags |= if completes_not { COMPLETES_NOT } else { 0 };
    if first == 1 {
        flags |= RETURNS;
        inst.d = d.destination(f, f.operand(0)?, B64)?;
    }
    place(d, f, &mut inst, first)?;
    match (f.operands().len() - first, expects) {
        (1, false) => {}
        (2, true) => {
            inst.c = d.source(f, f.operand(first + 1)?, U32)?;
            flags |= EXPECTS;
        }
        (2, false) => {
            inst.b = d.source(f, f.operand(first + 1)?, U32)?;
            flags |= HAS_COUNT;
        }
        _ => return Err(f.unsupported("the number of operands does not fit the modifiers")),
    }
    inst.flags |= flags << FLAGS_SHIFT;
    Ok(inst)
}

/// Addresses have their flags at both ends of the word.
const FLAGS_SHIFT: u32 = 8;

fn execute_arrive(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let flags = i.flags >> FLAGS_SHIFT;
    let counts = if flags & HAS_COUNT != 0 { x.word(i.b, mask) } else { [1; 32] };
    let bytes = if flags & EXPECTS != 0 { x.word(i.c, mask) } else { [0; 32] };
    let mut states = [0; 32];
    let step = for_each(x, i, mask, |x, lane, address| {
        states[lane] = x.arrive_at_mbarrier(
            lane,
            address,
            Arrival {
                count: counts[lane],
                expected_bytes: bytes[lane],
                completes_not: flags & COMPLETES_NOT != 0,
                drops: flags & DROPS != 0,
                releases: flags & RELAXED == 0,
            },
        );
    });
    if flags & RETURNS != 0 {
        x.set_long(i.d, mask, &states);
    }
    step
}

/// `mbarrier.try_wait{.parity} p, [address], state{, time}`
fn wait(d: &mut Decoder<'_>, f: &Form<'_>, blocks: bool) -> Result<Inst, Error> {
    let parity = f.accept("parity");
    let is_relaxed = semantics(f);
    f.expect_operands(3..=if blocks { 4 } else { 3 })?;
    let mut inst = Inst::new(execute_wait);
    inst.d = d.destination(f, f.operand(0)?, Pred)?;
    place(d, f, &mut inst, 1)?;
    inst.b = d.source(f, f.operand(2)?, if parity { U32 } else { B64 })?;
    if f.operands().len() == 4 {
        // How long it may take; it takes as long as it must.
        d.source(f, f.operand(3)?, U32)?;
    }
    let flags =
        if parity { PARITY } else { 0 } | if blocks { BLOCKS } else { 0 } | if is_relaxed { RELAXED } else { 0 };
    inst.flags |= flags << FLAGS_SHIFT;
    Ok(inst)
}

fn execute_wait(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let flags = i.flags >> FLAGS_SHIFT;
    // A state is the number of its phase.
    let parities =
        if flags & PARITY != 0 { x.word(i.b, mask) } else { x.long(i.b, mask).map(|state| state as u32 & 1) };
    let Some(all) = checked(x, i, mask) else { return Step::Fault };
    let found = x.test_mbarriers(&all, &parities, mask, (flags & BLOCKS != 0, flags & RELAXED == 0));
    let Some(complete) = found else { return Step::Park };
    x.set_predicate(i.d, mask, complete);
    if complete == mask { Step::Next } else { Step::Yield }
}

/// The addresses of the lanes in shared memory, checked.
fn checked(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Option<[u64; 32]> {
    let mut all = addresses(x, i, mask);
    if i.flags & GENERIC != 0 {
        all = all.map(|address| address.wrapping_sub(SHARED_WINDOW));
    }
    let inside = all.map(|address| if address >> 32 == 0 { u64::from(rank_of(address).1) } else { address });
    if !shared_bounds(x, &inside, mask, BYTES, Access::Atomic)
        || x.aligned(Space::Shared, Access::Atomic, &inside, mask, BYTES) != mask
    {
        return None;
    }
    Some(all)
}

/// Does something with the mbarrier of each lane, in the block where it lies.
fn for_each(x: &mut Exec<'_>, i: &Inst, mask: u32, mut work: impl FnMut(&mut Exec<'_>, usize, u32)) -> Step {
    let Some(all) = checked(x, i, mask) else { return Step::Fault };
    for lane in each_lane(mask) {
        let (rank, address) = rank_of(all[lane]);
        let rank = rank.unwrap_or(x.block.rank);
        x.in_block(rank, lane, address, |x| work(x, lane, address));
    }
    Step::Next
}
