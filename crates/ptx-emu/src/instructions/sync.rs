//! Barriers and fences.

use crate::Error;
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::hazard::HazardKind;
use crate::machine::barrier::{Arrival, BARRIERS, Destination, Reduction};
use crate::machine::{Exec, Step, each_lane};
use crate::module::ScalarType::{Pred, U32};

const HAS_COUNT: u32 = 1;
const WAITS: u32 = 2;
const REDUCES: u32 = 4;
const NEGATED: u32 = 8;
const REDUCTION_SHIFT: u32 = 8;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "membar" => {
            f.require("the scope", &[("cta", ()), ("gl", ()), ("sys", ())])?;
            fence(f)
        }
        "fence" if f.accept("proxy") => proxy_fence(f),
        "fence" if f.accept("mbarrier_init") => {
            f.require("the semantics", &[("release", ())])?;
            f.require("the scope", &[("cluster", ())])?;
            f.expect_operands(0..=0)?;
            Ok(Inst::new(|x, _, mask| {
                x.fence_mbarriers(mask, true);
                Step::Next
            }))
        }
        "fence" => {
            f.choose(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
            f.require("the scope", &[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())])?;
            fence(f)
        }
        _ => barrier(d, f),
    }
}

/// `fence.proxy.async{.space}` and `fence.proxy.alias`
fn proxy_fence(f: &Form<'_>) -> Result<Inst, Error> {
    f.expect_operands(0..=0)?;
    if f.accept("alias") {
        // All names of a byte are one here.
        return Ok(Inst::new(|_, _, _| Step::Next));
    }
    f.require("the proxy", &[("async", ())])?;
    let space = f.choose(&[("shared::cta", true), ("shared::cluster", true), ("global", false)]);
    // Global memory has one proxy here.
    if space == Some(false) {
        return Ok(Inst::new(|_, _, _| Step::Next));
    }
    Ok(Inst::new(|x, _, mask| {
        let live = x.warp.live;
        x.warp.clock.fence_proxy(mask, live);
        x.fence_mbarriers(mask, false);
        Step::Next
    }))
}

/// `griddepcontrol`: launches follow one another here, so that there is nothing to wait for.
pub(super) fn grid_dependency(f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the action", &[("launch_dependents", ()), ("wait", ())])?;
    f.expect_operands(0..=0)?;
    Ok(Inst::new(|_, _, _| Step::Next))
}

fn fence(f: &Form<'_>) -> Result<Inst, Error> {
    f.expect_operands(0..=0)?;
    Ok(Inst::new(|x, _, _| {
        x.warp.clock.fence();
        Step::Next
    }))
}

fn barrier(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    if f.base == "bar" && f.accept("warp") {
        return warp_barrier(d, f);
    }
    f.accept("cta");
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Sync,
        Arrive,
        Reduce,
    }
    let kind = f.require("the kind", &[("sync", Kind::Sync), ("arrive", Kind::Arrive), ("red", Kind::Reduce)])?;
    // `bar` is `barrier.aligned`.
    let aligned = f.base == "bar" || f.accept("aligned");
    let mut inst = Inst::new(arrive);
    inst.sync = if aligned { Sync::Barrier } else { Sync::None };
    inst.flags = if kind == Kind::Arrive { 0 } else { WAITS };
    let mut at = 0;
    if kind == Kind::Reduce {
        let operation =
            f.require("the operation", &[("popc", Reduction::Count), ("and", Reduction::And), ("or", Reduction::Or)])?;
        let ty = f.ty()?;
        let expected = if operation == Reduction::Count { U32 } else { Pred };
        if ty != expected {
            return Err(f.unsupported(format!("the result has type {expected:?}")));
        }
        inst.d = d.destination(f, f.operand(0)?, ty)?;
        inst.flags |= REDUCES | (operation as u32) << REDUCTION_SHIFT;
        at = 1;
    }
    let last = usize::from(kind == Kind::Reduce);
    let operands = f.operands().len();
    f.expect_operands(at + 1 + last..=at + 2 + last)?;
    inst.a = d.source(f, f.operand(at)?, U32)?;
    if operands > at + 1 + last {
        inst.b = d.source(f, f.operand(at + 1)?, U32)?;
        inst.flags |= HAS_COUNT;
    } else if kind == Kind::Arrive {
        return Err(f.unsupported("an arrival needs a thread count"));
    }
    if kind == Kind::Reduce {
        let (row, negated) = d.predicate(f, f.operand(operands - 1)?)?;
        inst.c = row;
        inst.flags |= if negated { NEGATED } else { 0 };
    }
    Ok(inst)
}

fn arrive(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let lane = mask.trailing_zeros() as usize;
    let id = x.word(i.a, mask)[lane];
    let count = if i.flags & HAS_COUNT != 0 { Some(x.word(i.b, mask)[lane]) } else { None };
    if id as usize >= BARRIERS {
        let kind = HazardKind::BarrierCount { barrier: id, count: count.unwrap_or(0), expected: BARRIERS as u32 };
        x.report(None, None, kind);
        return Step::Next;
    }
    let reduction = if i.flags & REDUCES != 0 {
        let predicate = x.predicate(i.c, mask);
        let operation = match i.flags >> REDUCTION_SHIFT {
            0 => Reduction::And,
            1 => Reduction::Or,
            _ => Reduction::Count,
        };
        let value = if i.flags & NEGATED != 0 { !predicate } else { predicate };
        Some((value, Destination { operation, row: i.d }))
    } else {
        None
    };
    let waits = i.flags & WAITS != 0;
    x.arrive(&Arrival { barrier: id, count, lanes: mask, waits, reduction });
    if waits { Step::Wait } else { Step::Next }
}

/// `bar.warp.sync members`
fn warp_barrier(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the kind", &[("sync", ())])?;
    f.expect_operands(1..=1)?;
    let mut inst = Inst::new(|x, i, mask| {
        let members = super::warp::members(x, i.a, mask);
        let live = x.warp.live;
        // Lanes with different member masks may be here together; they do not meet.
        let mut rest = mask;
        while rest != 0 {
            let group = members[rest.trailing_zeros() as usize];
            let lanes = each_lane(rest).filter(|l| members[*l] == group).fold(0, |all, lane| all | 1u32 << lane);
            x.warp.clock.meet(lanes, live);
            rest &= !lanes;
        }
        Step::Next
    });
    inst.a = d.source(f, f.operand(0)?, U32)?;
    inst.sync = Sync::Members(inst.a);
    Ok(inst)
}
