//! Exchanges between the lanes of a warp.

use crate::Error;
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::hazard::HazardKind;
use crate::machine::registers::Words;
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::ScalarType::{B32, Pred, S32, U32};
use crate::module::{Class, Operand};

const NO_ROW: u32 = u32::MAX;
const NEGATED: u32 = 1;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "activemask" => {
            f.ty()?;
            f.expect_operands(1..=1)?;
            let mut inst = Inst::new(|x, i, mask| {
                x.set_word(i.d, mask, &[mask; 32]);
                Step::Next
            });
            inst.d = d.destination(f, f.operand(0)?, B32)?;
            Ok(inst)
        }
        "shfl" => shuffle(d, f),
        "vote" => vote(d, f),
        "match" => matching(d, f),
        "elect" => elect(d, f),
        _ => reduce(d, f),
    }
}

/// The member masks of a `.sync` instruction; reports lanes that are not members themselves.
pub(super) fn members(x: &mut Exec<'_>, row: u32, mask: u32) -> Words {
    let members = x.word(row, mask);
    if let Some(lane) = each_lane(mask).find(|lane| members[*lane] >> lane & 1 == 0) {
        let kind = HazardKind::InvalidParticipant { members: members[lane], lane: lane as u32 };
        x.report(Some(lane as u32), None, kind);
    }
    members
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

fn shuffle(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the convergence", &[("sync", ())])?;
    let modes = [("up", Shuffle::Up), ("down", Shuffle::Down), ("bfly", Shuffle::Butterfly), ("idx", Shuffle::Index)];
    let mode = f.require("the mode", &modes)?;
    if f.ty()? != B32 {
        return Err(f.unsupported("only .b32 exists"));
    }
    f.expect_operands(5..=5)?;
    let handler: Handler = match mode {
        Shuffle::Up => exchange::<0>,
        Shuffle::Down => exchange::<1>,
        Shuffle::Butterfly => exchange::<2>,
        Shuffle::Index => exchange::<3>,
    };
    let mut inst = Inst::new(handler);
    let (first, second) = super::pair(f.operand(0)?);
    inst.d = d.destination(f, first, B32)?;
    let predicate = second.map(|second| d.destination(f, second, Pred)).transpose()?;
    inst.a = d.source(f, f.operand(1)?, B32)?;
    inst.b = d.source(f, f.operand(2)?, B32)?;
    inst.c = d.source(f, f.operand(3)?, B32)?;
    let member_row = d.source(f, f.operand(4)?, B32)?;
    inst.rows = [member_row, predicate.unwrap_or(NO_ROW)].into();
    inst.sync = Sync::Members(member_row);
    Ok(inst)
}

fn exchange<const MODE: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let members = members(x, i.rows[0], mask);
    let (b, c) = (x.word(i.b, mask), x.word(i.c, mask));
    let mut from = [0usize; 32];
    let mut inside = 0u32;
    let mut sources = 0u32;
    for lane in each_lane(mask) {
        let segment = c[lane] >> 8 & 31;
        let (own, by) = (lane as u32, b[lane] & 31);
        let last = own & segment | c[lane] & 31 & !segment;
        let (target, valid) = match MODE {
            0 => (own.wrapping_sub(by), own as i32 - by as i32 >= last as i32),
            1 => (own + by, own + by <= last),
            2 => (own ^ by, own ^ by <= last),
            _ => {
                let target = own & segment | by & !segment & 31;
                (target, target <= last)
            }
        };
        let target = if valid { target & 31 } else { own };
        from[lane] = target as usize;
        sources |= 1 << target;
        inside |= u32::from(valid) << lane;
    }
    let absent = each_lane(mask).find(|l| (mask & (members[*l] | 1 << l)) >> from[*l] & 1 == 0);
    if let Some(lane) = absent {
        let kind = HazardKind::InvalidParticipant { members: members[lane] & mask, lane: from[lane] as u32 };
        x.report(Some(lane as u32), None, kind);
    }
    let a = x.word(i.a, sources & mask);
    let out = std::array::from_fn(|lane| a[from[lane]]);
    x.set_word(i.d, mask, &out);
    if i.rows[1] != NO_ROW {
        x.set_predicate(i.rows[1], mask, inside);
    }
    Step::Next
}

/// `vote.sync.mode d, {!}p, members`
fn vote(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the convergence", &[("sync", ())])?;
    let mode = f.require("the mode", &[("all", 0), ("any", 1), ("uni", 2), ("ballot", 3)])?;
    let ty = f.ty()?;
    let wanted = if mode == 3 { B32 } else { Pred };
    if ty != wanted {
        return Err(f.unsupported(format!("the result has type {wanted:?}")));
    }
    f.expect_operands(3..=3)?;
    let handler: Handler = match mode {
        0 => ballot::<0>,
        1 => ballot::<1>,
        2 => ballot::<2>,
        _ => ballot::<3>,
    };
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, ty)?;
    let (row, negated) = d.predicate(f, f.operand(1)?)?;
    inst.a = row;
    inst.flags = if negated { NEGATED } else { 0 };
    inst.b = d.source(f, f.operand(2)?, B32)?;
    inst.sync = Sync::Members(inst.b);
    Ok(inst)
}

fn ballot<const MODE: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let members = members(x, i.b, mask);
    let predicate = x.predicate(i.a, mask);
    let votes = if i.flags & NEGATED != 0 { !predicate } else { predicate } & mask;
    if MODE == 3 {
        x.set_word(i.d, mask, &members.map(|group| votes & group));
        return Step::Next;
    }
    let holds = |lane: usize| {
        let group = members[lane] & mask;
        match MODE {
            0 => votes & group == group,
            1 => votes & group != 0,
            _ => votes & group == group || votes & group == 0,
        }
    };
    let result = each_lane(mask).filter(|lane| holds(*lane)).fold(0, |all, lane| all | 1 << lane);
    x.set_predicate(i.d, mask, result);
    Step::Next
}

/// `match.any.sync.type d, a, members` and `match.all.sync.type d|p, a, members`
fn matching(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let all = f.require("the mode", &[("any", false), ("all", true)])?;
    f.require("the convergence", &[("sync", ())])?;
    let ty = f.ty()?;
    let handler: Handler = match (all, ty.class()) {
        (false, Class::Word) => same::<false, false>,
        (false, Class::Long) => same::<false, true>,
        (true, Class::Word) => same::<true, false>,
        (true, Class::Long) => same::<true, true>,
        _ => return Err(f.unsupported("only .b32 and .b64 exist")),
    };
    f.expect_operands(3..=3)?;
    let mut inst = Inst::new(handler);
    let (first, second) = super::pair(f.operand(0)?);
    inst.d = d.destination(f, first, B32)?;
    let predicate = second.map(|second| d.destination(f, second, Pred)).transpose()?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    inst.b = d.source(f, f.operand(2)?, B32)?;
    inst.rows = [predicate.unwrap_or(NO_ROW)].into();
    inst.sync = Sync::Members(inst.b);
    Ok(inst)
}

fn same<const ALL: bool, const LONG: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let members = members(x, i.b, mask);
    let values: [u64; 32] = if LONG { x.long(i.a, mask) } else { x.word(i.a, mask).map(u64::from) };
    let mut out = [0u32; 32];
    let mut agree = 0;
    for lane in each_lane(mask) {
        let group = members[lane] & mask;
        let equal =
            each_lane(group).filter(|other| values[*other] == values[lane]).fold(0, |set, other| set | 1u32 << other);
        out[lane] = if !ALL {
            equal
        } else if equal == group {
            group
        } else {
            0
        };
        agree |= u32::from(equal == group) << lane;
    }
    x.set_word(i.d, mask, &out);
    if i.rows[0] != NO_ROW {
        x.set_predicate(i.rows[0], mask, agree);
    }
    Step::Next
}

/// `elect.sync d|p, members`: the lowest lane leads.
fn elect(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the convergence", &[("sync", ())])?;
    f.expect_operands(2..=2)?;
    let mut inst = Inst::new(|x, i, mask| {
        let members = members(x, i.b, mask);
        let leader: Words = std::array::from_fn(|lane| (members[lane] & mask | 1 << lane).trailing_zeros());
        let leads = each_lane(mask).filter(|lane| leader[*lane] as usize == *lane).fold(0, |all, lane| all | 1 << lane);
        x.set_word(i.d, mask, &leader);
        x.set_predicate(i.a, mask, leads);
        Step::Next
    });
    let Operand::Pair(first, second) = f.operand(0)? else {
        return Err(f.unsupported("the destination must be a pair of a register and a predicate"));
    };
    inst.d = d.destination(f, first, B32)?;
    inst.a = d.destination(f, second, Pred)?;
    inst.b = d.source(f, f.operand(1)?, B32)?;
    inst.sync = Sync::Members(inst.b);
    Ok(inst)
}

/// `redux.sync.op.type d, a, members`
fn reduce(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the convergence", &[("sync", ())])?;
    let operations = [("add", 0), ("min", 1), ("max", 2), ("and", 3), ("or", 4), ("xor", 5)];
    let operation: u8 = f.require("the operation", &operations)?;
    let ty = f.ty()?;
    let handler: Handler = match (operation, ty) {
        (0, U32 | S32) => redux::<0>,
        (1, U32) => redux::<1>,
        (2, U32) => redux::<2>,
        (3, B32) => redux::<3>,
        (4, B32) => redux::<4>,
        (5, B32) => redux::<5>,
        (1, S32) => redux::<6>,
        (2, S32) => redux::<7>,
        _ => return Err(f.unsupported(format!("no such reduction of {ty:?}"))),
    };
    f.expect_operands(3..=3)?;
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, ty)?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    inst.b = d.source(f, f.operand(2)?, B32)?;
    inst.sync = Sync::Members(inst.b);
    Ok(inst)
}

fn redux<const OPERATION: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let members = members(x, i.b, mask);
    let a = x.word(i.a, mask);
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let values = each_lane(members[lane] & mask).map(|other| a[other]);
        let combined = values.reduce(|p, q| match OPERATION {
            0 => p.wrapping_add(q),
            1 => p.min(q),
            2 => p.max(q),
            3 => p & q,
            4 => p | q,
            5 => p ^ q,
            6 => (p as i32).min(q as i32) as u32,
            _ => (p as i32).max(q as i32) as u32,
        });
        out[lane] = combined.unwrap_or(0);
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}
