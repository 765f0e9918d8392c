//! `ldmatrix`, `stmatrix` and `movmatrix`: 8x8 matrices of 16-bit elements between shared memory
//! and the registers of a warp.
//!
//! ```text
//! lane of element (row, column), two columns to a lane:
//!            col 0 1   2 3   4 5   6 7
//!   row 0      0 0   1 1   2 2   3 3
//!   row 1      4 4   5 5   6 6   7 7
//!   ...                                     lane = 4 row + column / 2, half = column % 2
//! ```

use super::address::{addresses, set_address};
use super::memory::{fetch, put, shared_bounds};
use super::unary;
use crate::Error;
use crate::counters::{Wavefronts, shared_wavefronts};
use crate::decode::layout::SHARED_WINDOW;
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::hazard::{Access, HazardKind};
use crate::machine::{Exec, Step};
use crate::module::ScalarType::B32;
use crate::module::Space;

const TRANSPOSED: u32 = 1;
const GENERIC: u32 = 2;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the convergence", &[("sync", ())])?;
    f.require("the convergence", &[("aligned", ())])?;
    f.require("the shape", &[("m8n8", ())])?;
    if f.base == "movmatrix" {
        f.require("the direction", &[("trans", ())])?;
        f.require("the type", &[("b16", ())])?;
        let mut inst = unary(d, f, transpose, B32, B32)?;
        inst.sync = Sync::Aligned;
        return Ok(inst);
    }
    let count = f.require("the number of matrices", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transposed = f.accept("trans");
    let shared = f.choose(&[("shared", ()), ("shared::cta", ())]).is_some();
    f.require("the type", &[("b16", ())])?;
    f.expect_operands(2..=2)?;
    let load = f.base == "ldmatrix";
    let (registers, address) = if load { (0, 1) } else { (1, 0) };
    let mut inst = Inst::new(if load { load_matrices } else { store_matrices });
    inst.rows = d.vector(f, f.operand(registers)?, B32, load)?;
    if inst.rows.len() != count {
        return Err(f.unsupported(format!("{} registers for {count} matrices", inst.rows.len())));
    }
    inst.sync = Sync::Aligned;
    inst.flags = if transposed { TRANSPOSED } else { 0 } | if shared { 0 } else { GENERIC };
    let address = d.address(f, f.operand(address)?)?;
    set_address(&mut inst, address);
    Ok(inst)
}

/// Reports lanes that do not take part in an instruction that needs the whole warp.
pub(super) fn whole_warp(x: &mut Exec<'_>, mask: u32) {
    if mask != u32::MAX {
        x.report(None, None, HazardKind::MissingParticipants { required: u32::MAX, present: mask });
    }
}

/// Row addresses of all matrices, checked. Matrix `k` takes them from lanes `8k..8k+8`.
fn row_addresses(x: &mut Exec<'_>, i: &Inst, mask: u32, access: Access) -> Option<([u32; 32], u32)> {
    whole_warp(x, mask);
    let count = i.rows.len() as u32;
    let wanted = mask & (u32::MAX >> (32 - 8 * count));
    let mut all = addresses(x, i, wanted);
    if i.flags & GENERIC != 0 {
        all = all.map(|address| address.wrapping_sub(SHARED_WINDOW));
    }
    if !shared_bounds(x, &all, wanted, 16, access) {
        return None;
    }
    let rows = x.aligned(Space::Shared, access, &all, wanted, 16);
    let narrow = all.map(|address| address as u32);
    let slot = if access == Access::Read { 3 } else { 4 };
    let mut fronts = Wavefronts { instructions: 1, ..Wavefronts::default() };
    let passes = shared_wavefronts(&narrow, rows, 16);
    (fronts.actual, fronts.ideal) = (passes.actual, passes.ideal);
    x.block.tally.shared[slot].add(fronts);
    Some((narrow, rows))
}

fn load_matrices(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let Some((from, rows)) = row_addresses(x, i, mask, Access::Read) else { return Step::Fault };
    let checks = x.launch.options.checks;
    for (matrix, register) in i.rows.iter().enumerate() {
        let mut words = [0u32; 32];
        for row in 0..8 {
            let lane = matrix * 8 + row;
            if rows >> lane & 1 == 0 {
                continue;
            }
            x.check_shared_read(checks, lane, from[lane], 16, false);
            let mut four = [0; 4];
            fetch(&x.block.shared, from[lane] as usize, 16, &mut four);
            words[row * 4..row * 4 + 4].copy_from_slice(&four);
        }
        if i.flags & TRANSPOSED != 0 {
            words = transposed(&words);
        }
        x.set_word(*register, mask, &words);
    }
    Step::Next
}

fn store_matrices(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let Some((to, rows)) = row_addresses(x, i, mask, Access::Write) else { return Step::Fault };
    let checks = x.launch.options.checks;
    for (matrix, register) in i.rows.iter().enumerate() {
        let mut words = x.word(*register, mask);
        if i.flags & TRANSPOSED != 0 {
            words = transposed(&words);
        }
        for row in 0..8 {
            let lane = matrix * 8 + row;
            if rows >> lane & 1 == 0 {
                continue;
            }
            let four = [words[row * 4], words[row * 4 + 1], words[row * 4 + 2], words[row * 4 + 3]];
            if checks.shared_races || checks.uninitialized_memory {
                x.check_shared_write(lane, to[lane], 16, false, &four);
            }
            put(&mut x.block.shared, to[lane] as usize, 16, &four);
        }
    }
    Step::Next
}

fn transpose(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    whole_warp(x, mask);
    let words = x.word(i.a, mask);
    x.set_word(i.d, mask, &transposed(&words));
    Step::Next
}

/// Transposes a matrix that is spread over a warp.
fn transposed(words: &[u32; 32]) -> [u32; 32] {
    let element = |row: usize, column: usize| words[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    })
}
