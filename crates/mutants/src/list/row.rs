//! kernels/lib/row.cuh.

use super::{
    BOUNDS, GLOBAL_RACE, MISALIGNED, NORM_BLOCK, NORM_STREAM, NORM_WARP, SOFTMAX_BLOCK, SOFTMAX_STREAM, SOFTMAX_WARP,
};
use crate::mutant::Mutant;

const FILE: &str = "lib/row.cuh";

pub fn mutants() -> Vec<Mutant> {
    let is_aligned = " && reinterpret_cast<uint64_t>(first) % 16 == 0) {";
    vec![
        Mutant::new("last-slot-dropped", "the number of slots is rounded down", SOFTMAX_STREAM)
            .edit(FILE, "(phase + columns + SIZE - 1) / SIZE", "(phase + columns) / SIZE")
            .fast(),
        Mutant::new("row-one-element-longer", "a row has one element more than it has", SOFTMAX_WARP).edit(
            FILE,
            "first_column(slot) + i < columns;",
            "first_column(slot) + i <= columns;",
        ),
        Mutant::new("row-one-element-earlier", "a row begins one element too early", NORM_WARP).edit(
            FILE,
            "first_column(slot) + i >= 0 &&",
            "first_column(slot) + i >= -1 &&",
        ),
        Mutant::new(
            "partial-first-slot-whole",
            "the partial slot 0 of a misaligned row is taken for whole",
            SOFTMAX_BLOCK,
        )
        .edit(
            FILE,
            "return first_column(slot) >= 0 && first_column(slot) + SIZE <= columns;",
            "return first_column(slot) + SIZE <= columns;",
        ),
        Mutant::new("partial-last-slot-whole", "a last slot that lacks one element is taken for whole", NORM_BLOCK)
            .edit(FILE, "first_column(slot) + SIZE <= columns;", "first_column(slot) + SIZE <= columns + 1;"),
        Mutant::new("phase-in-bytes", "the phase of a row is counted in bytes", NORM_WARP).edit(
            FILE,
            "% 16 / sizeof(Element)",
            "% 16",
        ),
        Mutant::new("loads-of-any-alignment", "vectors of another phase are loaded 16 bytes at a time", NORM_BLOCK)
            .edit_nth(1, FILE, is_aligned, ") {")
            .hazard(&[MISALIGNED]),
        Mutant::new("stores-of-any-alignment", "outputs of another phase are stored 16 bytes at a time", SOFTMAX_BLOCK)
            .edit_nth(2, FILE, is_aligned, ") {")
            .hazard(&[MISALIGNED])
            .fast(),
        Mutant::new("loads-by-element", "whole slots are loaded element by element too", NORM_STREAM)
            .edit_nth(1, FILE, "if (is_whole(slot)", "if (false && is_whole(slot)")
            .counters(),
        Mutant::new("stores-by-element", "whole slots are stored element by element too", SOFTMAX_WARP)
            .edit_nth(2, FILE, "if (is_whole(slot)", "if (false && is_whole(slot)")
            .counters(),
        Mutant::new(
            "middle-dimension-not-wrapped",
            "the middle one of three strided dimensions is not wrapped",
            SOFTMAX_WARP,
        )
        .edit(FILE, "row / n2 % n1 * strides.s1", "row / n2 * strides.s1")
        .hazard(&[BOUNDS]),
        Mutant::new(
            "dimensions-exchanged",
            "the inner one of three strided dimensions has the middle one's size",
            NORM_WARP,
        )
        .edit(FILE, "row % n2 * strides.s2", "row % n1 * strides.s2")
        .hazard(&[GLOBAL_RACE]),
    ]
}
