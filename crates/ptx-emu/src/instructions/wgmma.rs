//! `wgmma`: D = A B + D on four warps, A of 64 rows in shared memory or in registers, B in shared memory, up to 256
//! columns. See [`crate::numerics::warpgroup`] for the layout of D; A in registers is laid out in each warp as for
//! `mma`, 16 rows to a warp.
//!
//! A matrix descriptor says where chunks of 16 bytes lie. With `W` = 8, 4 or 2 chunks for the 128-, 64- and 32-byte
//! swizzle, `L` and `S` for the leading and stride offsets, `r` a row of A or column of B, `c` = 0 or 1:
//!
//! ```text
//! k next to k (K-major), chunk c holds k = 8c .. 8c+8 of r
//!     no swizzle:   16 (r % 8) + S (r / 8) + L c          swizzle:  16 W (r % 8) + S (r / 8) + 16 c
//! r next to r (MN-major), the chunk of j = r / 8 and k
//!     no swizzle:   16 (k % 8) + L (k / 8) + S j          swizzle:  16 W (k % 8) + S (k / 8) + 16 (j % W) + L (j / W)
//! ```
//!
//! The swizzle exchanges chunks of the final address: bits 4.. with the bits three above them, as many as W counts.

use super::matrix::whole_warp;
use crate::Error;
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::hazard::HazardKind;
use crate::machine::wgmma::Shape;
use crate::machine::{Exec, Step};
use crate::module::ScalarType::{self, *};
use crate::module::{Literal, Operand};
use crate::numerics::warpgroup::{Element, Major};

const BFLOAT: u32 = 1;
const TF32: u32 = 2;
const HALF_SUM: u32 = 4;
const A_IN_REGISTERS: u32 = 8;
const A_TRANSPOSED: u32 = 16;
const B_TRANSPOSED: u32 = 32;
const NEGATE: u32 = 64;
/// The predicate is negated.
const NEGATED: u32 = 128;
/// Columns, from this bit on.
const COLUMNS_SHIFT: u32 = 8;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    #[derive(Clone, Copy)]
    enum Kind {
        Product,
        Fence,
        Commit,
        Wait,
    }
    let kinds = [
        ("mma_async", Kind::Product),
        ("fence", Kind::Fence),
        ("commit_group", Kind::Commit),
        ("wait_group", Kind::Wait),
    ];
    let kind = f.require("the kind", &kinds)?;
    f.require("the convergence", &[("sync", ())])?;
    f.require("the convergence", &[("aligned", ())])?;
    let mut inst = match kind {
        Kind::Product => product(d, f)?,
        Kind::Fence => {
            f.expect_operands(0..=0)?;
            Inst::new(|x, _, _| {
                x.in_warpgroup([0; 3]);
                x.fence_products();
                Step::Next
            })
        }
        Kind::Commit => {
            f.expect_operands(0..=0)?;
            Inst::new(|x, _, _| {
                x.in_warpgroup([0; 3]);
                x.commit_products();
                Step::Next
            })
        }
        Kind::Wait => {
            f.expect_operands(1..=1)?;
            let remaining = f.constant(0)?;
            let mut inst = Inst::new(|x, i, _| {
                x.in_warpgroup([u64::from(i.a), 0, 0]);
                x.wait_products(i.a);
                Step::Next
            });
            inst.a = u32::try_from(remaining).map_err(|_| f.unsupported("the number of groups is out of range"))?;
            inst
        }
    };
    inst.sync = Sync::Aligned;
    Ok(inst)
}

/// `wgmma.mma_async.sync.aligned.m64nNkK.dtype.type.type d, a, b-desc, scale-d, scale-a, scale-b{, {trans-a,} trans-b}`
fn product(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let shapes: Vec<(String, (u32, u32))> =
        (1..=32).flat_map(|n| [16, 8].map(|k| (8 * n, k))).map(|(n, k)| (format!("m64n{n}k{k}"), (n, k))).collect();
    let names: Vec<(&str, (u32, u32))> = shapes.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
    let Some((columns, depth)) = f.choose(&names) else {
        return Err(f.unsupported("the shape is not one of .m64n8k16 to .m64n256k16 for 16-bit operands, k8 for tf32"));
    };
    let types: [ScalarType; 3] = [f.ty()?, f.ty()?, f.ty()?];
    let known = match types {
        [F16 | F32, F16, F16] | [F32, Bf16, Bf16] => depth == 16,
        [F32, ScalarType::Tf32, ScalarType::Tf32] => depth == 8,
        _ => false,
    };
    if !known {
        return Err(f.unsupported(format!("a product of {types:?} with {depth} columns is not modelled")));
    }
    let [to, element, _] = types;
    let in_registers = matches!(f.operand(1)?, Operand::Vector(_));
    let transposes = match (element, in_registers) {
        (ScalarType::Tf32, _) => 0,
        (_, true) => 1,
        (_, false) => 2,
    };
    f.expect_operands(6 + transposes..=6 + transposes)?;
    let mut inst = Inst::new(execute);
    inst.flags = columns << COLUMNS_SHIFT
        | match element {
            Bf16 => BFLOAT,
            ScalarType::Tf32 => TF32,
            _ => 0,
        }
        | if to == F16 { HALF_SUM } else { 0 }
        | if in_registers { A_IN_REGISTERS } else { 0 };
    let sum_type = if to == F16 { B32 } else { F32 };
    let sums = d.vector(f, f.operand(0)?, sum_type, true)?;
    let mut rows = sums.to_vec();
    if in_registers {
        rows.extend(d.vector(f, f.operand(1)?, B32, false)?);
    } else {
        inst.a = d.source(f, f.operand(1)?, B64)?;
    }
    inst.b = d.source(f, f.operand(2)?, B64)?;
    let expected = columns as usize / if to == F16 { 4 } else { 2 };
    if sums.len() != expected || rows.len() != expected + if in_registers { 4 } else { 0 } {
        return Err(f.unsupported("the number of registers does not fit the shape"));
    }
    // The sums are an operand as well, unless they start from zero for good.
    if !matches!(f.operand(3)?, Operand::Immediate(Literal::Integer(0))) {
        d.vector(f, f.operand(0)?, sum_type, false)?;
    }
    let (predicate, negated) = d.predicate(f, f.operand(3)?)?;
    inst.c = predicate;
    inst.flags |= if negated { NEGATED } else { 0 };
    for at in [4, 5] {
        match f.constant(at)? {
            1 => {}
            -1 => inst.flags ^= NEGATE,
            _ => return Err(f.unsupported("a scale must be 1 or -1")),
        }
    }
    let flags = if in_registers { &[B_TRANSPOSED][..] } else { &[A_TRANSPOSED, B_TRANSPOSED] };
    for (at, flag) in (6..6 + transposes).zip(flags) {
        match f.constant(at)? {
            0 => {}
            1 => inst.flags |= flag,
            _ => return Err(f.unsupported("a transposition is 0 or 1")),
        }
    }
    inst.rows = rows.into();
    d.hold_registers();
    Ok(inst)
}

fn shape(flags: u32) -> Shape {
    let major = |transposed: u32| if flags & transposed != 0 { Major::Mn } else { Major::K };
    Shape {
        columns: flags >> COLUMNS_SHIFT,
        element: match flags & (BFLOAT | TF32) {
            BFLOAT => Element::Bf16,
            TF32 => Element::Tf32,
            _ => Element::F16,
        },
        half_sum: flags & HALF_SUM != 0,
        a_in_registers: flags & A_IN_REGISTERS != 0,
        a_major: major(A_TRANSPOSED),
        b_major: major(B_TRANSPOSED),
        negate: flags & NEGATE != 0,
    }
}

fn execute(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    whole_warp(x, mask);
    if mask != u32::MAX {
        return Step::Next;
    }
    let shape = shape(i.flags);
    let a = if shape.a_in_registers { 0 } else { uniform(x, i.a, "the descriptor of A") };
    let b = uniform(x, i.b, "the descriptor of B");
    let predicate = x.predicate(i.c, mask);
    if predicate != 0 && predicate != u32::MAX {
        let reason = format!("the predicate is true for lanes {predicate:#010x} only");
        x.report(None, None, HazardKind::WarpgroupMismatch { reason });
    }
    let accumulates = (predicate & 1 != 0) != (i.flags & NEGATED != 0);
    x.in_warpgroup([a, b, u64::from(accumulates)]);
    if x.issue_product(i, shape, a, b, accumulates) { Step::Next } else { Step::Fault }
}

/// The value of a long that must be the same in all lanes.
fn uniform(x: &mut Exec<'_>, row: u32, what: &str) -> u64 {
    let values = x.long(row, u32::MAX);
    if let Some(lane) = values.iter().position(|value| *value != values[0]) {
        let reason = format!("{what} is {:#x} in lane 0 and {:#x} in lane {lane}", values[0], values[lane]);
        x.report(None, None, HazardKind::WarpgroupMismatch { reason });
    }
    values[0]
}
