//! Clusters: `barrier.cluster`, and addresses in the shared memory of other blocks.

use super::movement::window_of;
use crate::Error;
use crate::decode::layout::{RANK_SHIFT, SHARED_WINDOW};
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::machine::Step;
use crate::machine::cluster::rank_of;
use crate::module::ScalarType::{U32, U64};
use crate::module::Space;

/// `barrier.cluster.arrive{.release, .relaxed}{.aligned}` and `barrier.cluster.wait{.acquire}{.aligned}`
pub(super) fn barrier(f: &Form<'_>) -> Result<Inst, Error> {
    let waits = f.require("the kind", &[("arrive", false), ("wait", true)])?;
    let is_relaxed = !waits && f.accept("relaxed");
    f.accept(if waits { "acquire" } else { "release" });
    let aligned = f.accept("aligned");
    f.expect_operands(0..=0)?;
    let mut inst = Inst::new(match (waits, is_relaxed) {
        (true, _) => |x, _, mask| x.wait_for_cluster(mask, true),
        (false, true) => |x, _, mask| {
            x.arrive_at_cluster(mask, false);
            Step::Next
        },
        (false, false) => |x, _, mask| {
            x.arrive_at_cluster(mask, true);
            Step::Next
        },
    });
    inst.sync = if aligned { Sync::Aligned } else { Sync::None };
    Ok(inst)
}

const LONG: u32 = 1;

/// `mapa{.shared::cluster}.type d, a, rank`: the address that corresponds to `a` in another block.
pub(super) fn map_address(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let is_shared = f.accept("shared::cluster");
    let ty = f.require("the type", &[("u32", U32), ("u64", U64)])?;
    if !is_shared && ty == U32 {
        return Err(f.unsupported("only 64-bit generic addresses are modelled"));
    }
    f.expect_operands(3..=3)?;
    let mut inst = Inst::new(|x, i, mask| {
        let ranks = x.word(i.b, mask);
        let of = |address: u64, rank: u32| {
            let base = if i.flags & LONG != 0 && window_of(address) == Space::Shared { SHARED_WINDOW } else { 0 };
            base + (u64::from(rank + 1) << RANK_SHIFT) + u64::from(rank_of((address - base) & 0xffff_ffff).1)
        };
        if i.flags & LONG != 0 {
            let a = x.long(i.a, mask);
            x.set_long(i.d, mask, &std::array::from_fn(|lane| of(a[lane], ranks[lane] & 0x7f)));
        } else {
            let a = x.word(i.a, mask);
            x.set_word(i.d, mask, &std::array::from_fn(|lane| of(u64::from(a[lane]), ranks[lane] & 0x7f) as u32));
        }
        Step::Next
    });
    inst.flags = if ty == U64 { LONG } else { 0 };
    inst.d = d.destination(f, f.operand(0)?, ty)?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    inst.b = d.source(f, f.operand(2)?, U32)?;
    Ok(inst)
}

/// `getctarank{.shared::cluster}.type d, a`: the block whose shared memory an address points into.
pub(super) fn rank(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.accept("shared::cluster");
    let ty = f.require("the type", &[("u32", U32), ("u64", U64)])?;
    f.expect_operands(2..=2)?;
    let mut inst = Inst::new(|x, i, mask| {
        let all = if i.flags & LONG != 0 { x.long(i.a, mask) } else { x.word(i.a, mask).map(u64::from) };
        let own = x.block.rank;
        let ranks = all.map(|address| rank_of(address & 0xffff_ffff).0.unwrap_or(own));
        x.set_word(i.d, mask, &ranks);
        Step::Next
    });
    inst.flags = if ty == U64 { LONG } else { 0 };
    inst.d = d.destination(f, f.operand(0)?, U32)?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    Ok(inst)
}
