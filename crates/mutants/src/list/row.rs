//! kernels/lib/row.cuh.

use super::{
    BOUNDS, GLOBAL_RACE, MISALIGNED, NORM_BACKWARD_GENERAL, NORM_BLOCK, NORM_GENERAL, NORM_GENERAL_FLOAT, NORM_LANES,
    SOFTMAX_BLOCK, SOFTMAX_GENERAL, SOFTMAX_GENERAL_BLOCK, SOFTMAX_LANES, SOFTMAX_WHOLE, UNDEFINED,
};
use crate::mutant::Mutant;

const FILE: &str = "lib/row.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("row-last-slot-dropped", "a last slot that ends with its row is left out", SOFTMAX_WHOLE)
            .edit(FILE, "slots = (columns - head) / SLOT;", "slots = (columns - head - 1) / SLOT;")
            .fast(),
        Mutant::new("row-slot-past-the-end", "a row has one slot more than it has", SOFTMAX_WHOLE)
            .edit(FILE, "if (slot < slots) f(", "if (slot <= slots) f(")
            .hazard(&[GLOBAL_RACE, BOUNDS]),
        Mutant::new("row-slots-of-a-thread", "a thread's slots lie side by side", SOFTMAX_BLOCK)
            .edit(FILE, "const int slot = thread + v * threads;", "const int slot = thread * VECTORS + v;")
            .counters(),
        Mutant::new("row-second-slot-of-a-thread", "a thread's slots are its neighbours' first ones", SOFTMAX_WHOLE)
            .edit(FILE, "const int slot = thread + v * threads;", "const int slot = thread + v;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-slots-at-column-0", "slots begin with the row, not behind its first edges", SOFTMAX_LANES)
            .edit(FILE, "f(head + slot * SLOT, shares.slots[v]...)", "f(slot * SLOT, shares.slots[v]...)")
            .hazard(&[MISALIGNED]),
        Mutant::new("row-without-first-edges", "every row begins with a slot", NORM_LANES)
            .edit(FILE, "head = min(static_cast<int>((0 - element) % SLOT), columns);", "head = 0;")
            .hazard(&[MISALIGNED])
            .fast(),
        Mutant::new("row-head-of-the-other-side", "the first edges are as many as lie before the row", NORM_LANES)
            .edit(FILE, "(0 - element) % SLOT", "element % SLOT")
            .hazard(&[MISALIGNED]),
        Mutant::new("row-without-last-edges", "what lies behind the last slot is left out", SOFTMAX_LANES).edit(
            FILE,
            "edges = columns - slots * SLOT;",
            "edges = head;",
        ),
        Mutant::new("row-edge-past-the-end", "a row has one edge more than it has", SOFTMAX_LANES)
            .edit(FILE, "if (edge < edges) f(", "if (edge <= edges) f(")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-last-edges-at-the-front", "last edges do not lie behind the slots", SOFTMAX_LANES)
            .edit(FILE, "edge < head ? edge : edge + slots * SLOT", "edge")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-first-last-edge-at-the-front", "the first of the last edges is one of the first", NORM_BLOCK)
            .edit(FILE, "f(edge < head ? edge", "f(edge <= head ? edge")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-second-edge-of-a-thread", "a thread's second edge is its neighbour's first", NORM_LANES)
            .edit(FILE, "const int edge = thread + e * threads;", "const int edge = thread + e;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-cut-by-the-kernels-type", "a row of another type is cut as if it had the own", NORM_GENERAL)
            .edit(FILE, "(reference)) >> size_log2(type);", "(reference)) / sizeof(Element);")
            .hazard(&[MISALIGNED]),
        Mutant::new("row-spare-threads-work", "threads past the last row work on it too", SOFTMAX_LANES)
            .edit(FILE, "columns = group_idx < shape.rows ? ", "columns = group_idx + 1 > 0 ? ")
            .hazard(&[GLOBAL_RACE])
            .fast(),
        Mutant::new("row-past-the-last", "spare threads have rows of their own", SOFTMAX_WHOLE)
            .edit(FILE, "row(min(group_idx, shape.rows - 1))", "row(group_idx)")
            .edit(FILE, "columns = group_idx < shape.rows ? ", "columns = group_idx + 1 > 0 ? ")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-last-segment-whole", "the last segment is as long as the others", NORM_BLOCK)
            .edit(
                FILE,
                "min(rest, static_cast<int>(shape.segment_columns)) : 0;",
                "min(rest + 64, static_cast<int>(shape.segment_columns)) : 0;",
            )
            .hazard(&[GLOBAL_RACE, BOUNDS]),
        Mutant::new("row-first-segment-only", "all blocks of a row work on its first segment", SOFTMAX_BLOCK)
            .edit(
                FILE,
                "blockIdx.x / shape.segments, blockIdx.x % shape.segments);",
                "blockIdx.x / shape.segments, 0);",
            )
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-segment-at-column-0", "every segment lies at the row's beginning", NORM_BLOCK)
            .edit(FILE, "(tensor) + offset + column;", "(tensor) + offset + 0 * column;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-segment-in-elements", "a segment's first column is counted in bytes", SOFTMAX_BLOCK)
            .edit(FILE, "rows.column << size_log2(rows.type)", "rows.column")
            .hazard(&[GLOBAL_RACE, MISALIGNED]),
        Mutant::new(
            "row-segment-of-one-value",
            "a tensor that is broadcast along the row has segments too",
            SOFTMAX_GENERAL_BLOCK,
        )
        .edit(FILE, "(first_column) * rows.column << size_log2", "(first_column) << size_log2")
        .hazard(&[BOUNDS]),
        Mutant::new("row-partials-overlap", "partial results of neighbouring rows overlap", SOFTMAX_BLOCK)
            .edit(FILE, "(row) * shape.segments + segment)", "(row) + segment)")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-partials-of-one-value", "partial results of neighbouring segments overlap", NORM_BLOCK)
            .edit(FILE, "+ segment) * values;", "+ segment);")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new(
            "middle-dimension-not-wrapped",
            "the middle one of three strided dimensions is not wrapped",
            SOFTMAX_LANES,
        )
        .edit(FILE, "outer % shape.n1 * rows.s1", "outer * rows.s1")
        .hazard(&[BOUNDS]),
        Mutant::new(
            "dimensions-exchanged",
            "the inner one of three strided dimensions has the middle one's size",
            NORM_LANES,
        )
        .edit(FILE, "row % shape.n2 * rows.s2", "row % shape.n1 * rows.s2")
        .hazard(&[GLOBAL_RACE]),
        Mutant::new(
            "row-outer-dimension-of-rows",
            "the outer one of three strided dimensions counts rows",
            SOFTMAX_LANES,
        )
        .edit(FILE, "outer / shape.n1 * rows.s0", "row / shape.n1 * rows.s0")
        .hazard(&[BOUNDS]),
        Mutant::new(
            "row-loads-of-any-alignment",
            "a row of another phase is loaded 16 bytes at a time",
            SOFTMAX_GENERAL,
        )
        .edit(FILE, "load_words<!GENERAL>(first, words);", "load_words<true>(first, words);")
        .hazard(&[MISALIGNED]),
        Mutant::new("row-converted-of-any-alignment", "the same for a row of another type", NORM_GENERAL_FLOAT)
            .edit(FILE, "load_words<!GENERAL>(first, stored);", "load_words<true>(first, stored);")
            .hazard(&[MISALIGNED]),
        Mutant::new("row-weights-of-any-alignment", "weights are loaded 16 bytes at a time", NORM_LANES)
            .edit(
                FILE,
                "load_words<false>(reinterpret_cast<const Stored*>(row) + column, words);",
                "load_words<true>(reinterpret_cast<const Stored*>(row) + column, words);",
            )
            .hazard(&[MISALIGNED]),
        Mutant::new(
            "row-stores-of-any-alignment",
            "results of another phase are stored 16 bytes at a time",
            NORM_BACKWARD_GENERAL,
        )
        .edit(FILE, "store_words<IS_REFERENCE || !GENERAL>", "store_words<true>")
        .hazard(&[MISALIGNED]),
        Mutant::new("row-type-ignored", "rows of another type are loaded as the kernel's own", NORM_GENERAL_FLOAT)
            .edit(FILE, "if constexpr (GENERAL && sizeof(Element) == 4) {", "if constexpr (false) {")
            .hazard(&[BOUNDS]),
        Mutant::new("row-type-of-others-ignored", "weights and results have the kernel's type", NORM_GENERAL).edit(
            FILE,
            "if constexpr (GENERAL) {",
            "if constexpr (false) {",
        ),
        Mutant::new("row-wanted-by-one-column", "a group is wanted if its first column is", SOFTMAX_GENERAL)
            .edit(FILE, "if (is_wanted(column, N))", "if (is_wanted(column, 1))")
            .hazard(&[UNDEFINED]),
    ]
}
