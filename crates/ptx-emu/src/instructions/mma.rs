//! `mma.sync`: D = A B + C on one warp, A of 16 rows, B of 8 columns.
//!
//! ```text
//! g = lane / 4, t = lane % 4
//! 16-bit A, register q: row g + 8 (q & 1), columns 2t + 8 (q >> 1) + {0, 1}
//! 16-bit B, register q: rows 2t + 8 q + {0, 1}, column g
//! tf32 A, register q:   row g + 8 (q & 1), column t + 4 (q >> 1)
//! tf32 B, register q:   row t + 4 q, column g
//! f32 C and D, register i: row g + 8 (i >> 1), column 2t + (i & 1)
//! f16 C and D, register i: row g + 8 i, columns 2t + {0, 1}
//! ```

use super::matrix::whole_warp;
use crate::Error;
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::machine::{Exec, Step};
use crate::module::ScalarType::{self, *};
use crate::numerics::half::f32_to_f16;
use crate::numerics::simd::{Tiles, multiply_accumulate, multiply_halves, widen_halves};
use crate::numerics::tensor_core;
use crate::options::{Architecture, TensorCore};

const BFLOAT: u32 = 1;
const TF32: u32 = 2;
const HALF_SUM: u32 = 4;
/// Columns of A, from this bit on.
const DEPTH_SHIFT: u32 = 8;

/// Registers of A, B and C for a shape.
struct Counts {
    a: usize,
    b: usize,
    c: usize,
}

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the convergence", &[("sync", ())])?;
    f.require("the convergence", &[("aligned", ())])?;
    let depth: u32 = f.require("the shape", &[("m16n8k16", 16), ("m16n8k8", 8), ("m16n8k4", 4)])?;
    f.require("the layout of A", &[("row", ())])?;
    f.require("the layout of B", &[("col", ())])?;
    let types: [ScalarType; 4] = [f.ty()?, f.ty()?, f.ty()?, f.ty()?];
    let [to, a, b, c] = types;
    let known = match (a, depth) {
        (F16, 16 | 8) => matches!(to, F16 | F32),
        (Bf16, 16 | 8) | (ScalarType::Tf32, 8 | 4) => to == F32,
        _ => false,
    };
    if !known || a != b || to != c {
        return Err(f.unsupported(format!("a product of {types:?} with {depth} columns is not modelled")));
    }
    let a_registers = match (a, depth) {
        (ScalarType::Tf32, _) => depth as usize / 2,
        _ => depth as usize / 4,
    };
    let counts = Counts { a: a_registers, b: a_registers / 2, c: if to == F16 { 2 } else { 4 } };
    f.expect_operands(4..=4)?;
    // A and B are held by .b32 registers whatever their element type.
    let sum_type = if to == F16 { B32 } else { F32 };
    let parts = [
        (d.vector(f, f.operand(0)?, sum_type, true)?, counts.c, "D"),
        (d.vector(f, f.operand(1)?, B32, false)?, counts.a, "A"),
        (d.vector(f, f.operand(2)?, B32, false)?, counts.b, "B"),
        (d.vector(f, f.operand(3)?, sum_type, false)?, counts.c, "C"),
    ];
    let mut rows = Vec::new();
    for (registers, count, name) in &parts {
        if registers.len() != *count {
            return Err(f.unsupported(format!("{name} has {} registers instead of {count}", registers.len())));
        }
        rows.extend_from_slice(registers);
    }
    let deep = depth == 16 && to == F32;
    let mut inst = Inst::new(if deep { execute_deep } else { execute });
    inst.sync = Sync::Aligned;
    inst.rows = rows.into();
    inst.flags = depth << DEPTH_SHIFT
        | match a {
            Bf16 => BFLOAT,
            ScalarType::Tf32 => TF32,
            _ => 0,
        }
        | if to == F16 { HALF_SUM } else { 0 };
    Ok(inst)
}

fn execute(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    whole_warp(x, mask);
    let depth = (i.flags >> DEPTH_SHIFT) as usize;
    let sums = if i.flags & HALF_SUM != 0 { 2 } else { 4 };
    let a_count = if i.flags & TF32 != 0 { depth / 2 } else { depth / 4 };
    let (to, rest) = i.rows.split_at(sums);
    let (a_rows, rest) = rest.split_at(a_count);
    let (b_rows, c_rows) = rest.split_at(a_count / 2);
    let mut tiles = Tiles { a: [[0.0; 16]; 16], b: [[0.0; 8]; 16] };
    if i.flags & TF32 != 0 {
        load_tf32(x, mask, a_rows, b_rows, &mut tiles);
    } else {
        load_halves(x, mask, a_rows, b_rows, i.flags & BFLOAT != 0, &mut tiles);
    }
    let mut c = [[0.0f32; 8]; 16];
    for (register, row) in c_rows.iter().enumerate() {
        let values = x.word(*row, mask);
        if sums == 2 {
            let wide = widen_halves(&values, false);
            for (at, value) in wide.iter().enumerate() {
                c[at / 8 + 8 * register][at % 8] = *value;
            }
        } else {
            let (high, odd) = (register >> 1, register & 1);
            for lane in 0..32 {
                c[lane / 4 + 8 * high][lane % 4 * 2 + odd] = f32::from_bits(values[lane]);
            }
        }
    }
    match x.launch.options.tensor_core {
        TensorCore::Sequential => multiply_accumulate(&tiles, &mut c, depth),
        TensorCore::Aligned => {
            aligned(&tiles, &mut c, depth, i.flags & TF32 != 0, x.launch.options.architecture);
        }
    }
    for (register, row) in to.iter().enumerate() {
        let mut out = [0u32; 32];
        if sums == 2 {
            for (lane, value) in out.iter_mut().enumerate() {
                let pair = &c[lane / 4 + 8 * register][lane % 4 * 2..];
                *value = u32::from(f32_to_f16(pair[0])) | u32::from(f32_to_f16(pair[1])) << 16;
            }
        } else {
            let (high, odd) = (register >> 1, register & 1);
            for lane in 0..32 {
                let value = c[lane / 4 + 8 * high][lane % 4 * 2 + odd];
                out[lane] = if value.is_nan() { 0x7fff_ffff } else { value.to_bits() };
            }
        }
        x.set_word(*row, mask, &out);
    }
    x.block.tally.tensor_instructions += 1;
    x.block.tally.tensor_flops += 2 * 16 * 8 * depth as u64;
    Step::Next
}

/// The product that attention is made of.
fn execute_deep(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    if mask != u32::MAX || x.launch.options.tensor_core != TensorCore::Sequential {
        return execute(x, i, mask);
    }
    let rows: &[u32; 14] = i.rows.first_chunk().expect("this shape has 14 registers");
    let a: [_; 4] = std::array::from_fn(|q| x.word(rows[4 + q], mask));
    let b: [_; 2] = std::array::from_fn(|q| x.word(rows[8 + q], mask));
    let mut c: [_; 4] = std::array::from_fn(|q| x.word(rows[10 + q], mask));
    multiply_halves(&a, &b, &mut c, i.flags & BFLOAT != 0);
    for (row, values) in rows.iter().zip(&c) {
        x.set_word(*row, mask, values);
    }
    x.block.tally.tensor_instructions += 1;
    x.block.tally.tensor_flops += 2 * 16 * 8 * 16;
    Step::Next
}

fn load_halves(x: &mut Exec<'_>, mask: u32, a_rows: &[u32], b_rows: &[u32], bfloat: bool, tiles: &mut Tiles) {
    for (register, row) in a_rows.iter().enumerate() {
        // The 64 halves of a register, lane by lane, are an 8x8 block row by row.
        let block = widen_halves(&x.word(*row, mask), bfloat);
        let (down, right) = (8 * (register & 1), 8 * (register >> 1));
        for (line, values) in block.chunks_exact(8).enumerate() {
            tiles.a[down + line][right..right + 8].copy_from_slice(values);
        }
    }
    for (register, row) in b_rows.iter().enumerate() {
        let block = widen_halves(&x.word(*row, mask), bfloat);
        for (column, values) in block.chunks_exact(8).enumerate() {
            for (line, value) in values.iter().enumerate() {
                tiles.b[8 * register + line][column] = *value;
            }
        }
    }
}

fn load_tf32(x: &mut Exec<'_>, mask: u32, a_rows: &[u32], b_rows: &[u32], tiles: &mut Tiles) {
    // The tensor core does not look at the 13 low bits.
    let value = |bits: u32| f32::from_bits(bits & !0x1fff);
    for (register, row) in a_rows.iter().enumerate() {
        let words = x.word(*row, mask);
        for lane in 0..32 {
            tiles.a[lane / 4 + 8 * (register & 1)][lane % 4 + 4 * (register >> 1)] = value(words[lane]);
        }
    }
    for (register, row) in b_rows.iter().enumerate() {
        let words = x.word(*row, mask);
        for lane in 0..32 {
            tiles.b[lane % 4 + 4 * register][lane / 4] = value(words[lane]);
        }
    }
}

/// Adds as the tensor cores do: 8 products of 16-bit operands, or 4 of tf32, at a time.
fn aligned(tiles: &Tiles, c: &mut [[f32; 8]; 16], depth: usize, tf32: bool, architecture: Architecture) {
    let step = tensor_core::products_at_a_time(architecture) / if tf32 { 2 } else { 1 };
    let fraction_bits = tensor_core::fraction_bits(architecture);
    for (a, sums) in tiles.a.iter().zip(c) {
        for (column, sum) in sums.iter_mut().enumerate() {
            let b: [f32; 16] = std::array::from_fn(|k| tiles.b[k][column]);
            for start in (0..depth).step_by(step) {
                let range = start..(start + step).min(depth);
                *sum = tensor_core::fused_sum(&a[range.clone()], &b[range], *sum, fraction_bits);
            }
        }
    }
}
