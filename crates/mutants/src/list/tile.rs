//! kernels/lib/tile.cuh and kernels/lib/ptx.cuh, seen through attention.

use super::{ASYNC, BOUNDS, D64, D96, FLOAT, GENERAL, GLOBAL_RACE, MISALIGNED, RACE, UNDEFINED, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "lib/tile.cuh";
const PTX: &str = "lib/ptx.cuh";

pub fn mutants() -> Vec<Mutant> {
    [layout(), copies(), stores(), instructions()].concat()
}

fn layout() -> Vec<Mutant> {
    vec![
        Mutant::new("no-swizzle", "chunks lie where they are, in the way of each other", D64)
            .edit(FILE, "return PERIOD == 8 ? row & 7 : (row >> 1) & 3;", "return 0;")
            .counters()
            .fast(),
        Mutant::new("swizzle-of-other-rows", "rows of 192 bytes are swizzled by their last two bits", D96)
            .edit(FILE, "(row >> 1) & 3;", "row & 3;")
            .counters(),
        Mutant::new("swizzle-of-four-chunks", "rows of 128 bytes are swizzled among four chunks only", D64)
            .edit(FILE, "row & 7 :", "row & 3 :")
            .counters(),
        Mutant::new("pair-added", "the pair number is added to a swizzled address", D64)
            .edit(FILE, "(lane_address ^ ((pair % PAIRS) << 5))", "(lane_address + ((pair % PAIRS) << 5))")
            .hazard(&[ASYNC, RACE, UNWRITTEN]),
        Mutant::new("pair-of-three", "the pairs beyond the swizzle's period are a chunk too near", D96).edit(
            FILE,
            "(pair / PAIRS) * PERIOD * 16;",
            "(pair / PAIRS) * (PERIOD - 1) * 16;",
        ),
        Mutant::new("fragment-row-exchanged", "the lanes of an accumulator are taken column by column", D64)
            .edit(FILE, "return lane() / 4 + 8 * half;", "return lane() % 8 + 8 * half;")
            .hazard(&[RACE]),
        Mutant::new("fragment-column-single", "a lane's two columns are taken for eight apart", D64)
            .edit(FILE, "return 2 * (lane() % 4) + i % 2;", "return lane() % 4 + i % 2 * 4;")
            .hazard(&[MISALIGNED]),
        Mutant::new("a-chunk-exchanged", "operand A's chunk follows the wrong bit of the lane", D64).edit(
            FILE,
            "int a_chunk() { return lane() / 16; }",
            "int a_chunk() { return lane() / 8 % 2; }",
        ),
        Mutant::new("b-chunk-exchanged", "operand B's chunk follows the wrong bit of the lane", D96).edit(
            FILE,
            "int b_chunk() { return lane() / 8 % 2; }",
            "int b_chunk() { return lane() / 16; }",
        ),
    ]
}

fn copies() -> Vec<Mutant> {
    vec![
        Mutant::new("copiers-unbounded", "threads beyond the last whole pass copy too", D96)
            .edit(FILE, "if (COPIERS == THREADS || threadIdx.x < COPIERS) {", "if (true) {")
            .hazard(&[RACE, BOUNDS, ASYNC])
            .fast(),
        Mutant::new("zero-fill-missing", "rows past the end are copied instead of zeroed", D64)
            .edit(FILE, "pass * PASS_ROWS < rows_left ? 16 : 0", "16")
            .hazard(&[BOUNDS])
            .fast(),
        Mutant::new("zero-fill-one-row-late", "one row past the end is copied", D64)
            .edit(FILE, "pass * PASS_ROWS < rows_left ? 16 : 0", "pass * PASS_ROWS <= rows_left ? 16 : 0")
            .hazard(&[BOUNDS]),
        Mutant::new("hidden-rows-one-late", "one row past the last visible one is copied", D64).edit(
            FILE,
            "row >= rows_skipped && row < rows_left",
            "row >= rows_skipped && row <= rows_left",
        ),
        Mutant::new("skipped-rows-copied", "rows before the first visible one are copied", D64).edit(
            FILE,
            "row >= rows_skipped && row < rows_left",
            "row < rows_left",
        ),
        Mutant::new("skipped-rows-one-more", "the first visible row is zeroed", D64).edit(
            FILE,
            "row >= rows_skipped && row < rows_left",
            "row > rows_skipped && row < rows_left",
        ),
        Mutant::new("pass-advance-missing", "every pass copies the first one's rows", D64).edit(
            FILE,
            "source += pass_bytes;",
            "",
        ),
        Mutant::new("pass-of-the-tile", "rows are taken to follow each other without gaps", D64).edit(
            FILE,
            "pass_bytes(row_stride * PASS_ROWS)",
            "pass_bytes(static_cast<int64_t>(Tile::ROW_BYTES) * PASS_ROWS)",
        ),
        Mutant::new("first-tile-is-tile-0", "copies begin with the first tile, wherever the window does", D64).edit(
            FILE,
            "(first_row + static_cast<int>(threadIdx.x / Tile::CHUNKS))",
            "(static_cast<int>(threadIdx.x / Tile::CHUNKS))",
        ),
        Mutant::new("pass-in-one-place", "all passes of a tile are copied over each other", D64)
            .edit(FILE, "address_smem + pass * PASS_ROWS * Tile::ROW_BYTES, source", "address_smem, source")
            .hazard(&[RACE, ASYNC, UNWRITTEN]),
        Mutant::new("own-row-of-thread-0", "every thread takes its row for the first one", D64).edit(
            FILE,
            "int row() { return threadIdx.x / Tile::CHUNKS; }",
            "int row() { return 0; }",
        ),
        Mutant::new(
            "copies-of-half-sectors",
            "neighbouring threads copy 16 bytes of a row, and nobody near the 16 bytes beside them",
            D64,
        )
        .edit(
            FILE,
            "Tile::offset(threadIdx.x / Tile::CHUNKS, threadIdx.x % Tile::CHUNKS)",
            "Tile::offset(threadIdx.x % PASS_ROWS, threadIdx.x / PASS_ROWS % 2 * 4 + threadIdx.x / 32)",
        )
        .edit(
            FILE,
            "(first_row + static_cast<int>(threadIdx.x / Tile::CHUNKS))",
            "(first_row + static_cast<int>(threadIdx.x % PASS_ROWS))",
        )
        .edit(FILE, "threadIdx.x % Tile::CHUNKS * 16),", "(threadIdx.x / PASS_ROWS % 2 * 4 + threadIdx.x / 32) * 16),")
        .edit(FILE, "int row() { return threadIdx.x / Tile::CHUNKS; }", "int row() { return threadIdx.x % PASS_ROWS; }")
        .counters(),
        Mutant::new("copies-of-misaligned-rows", "misaligned rows are copied 16 bytes at a time", GENERAL)
            .edit(FILE, "if (aligned) {", "if (true) {")
            .hazard(&[MISALIGNED])
            .fast(),
        Mutant::new("elements-not-zeroed", "rows past the end hold what registers held", GENERAL)
            .edit(FILE, "Vector<Element> vector = {};", "Vector<Element> vector;")
            .hazard(&[UNDEFINED]),
        Mutant::new("rows-one-more", "one row past the end is copied", GENERAL).edit(
            FILE,
            "row < num_rows && chunk",
            "row <= num_rows && chunk",
        ),
        Mutant::new("rows-before-the-first", "rows before the first one that takes part are copied", GENERAL).edit(
            FILE,
            "row >= first_row && row < num_rows",
            "row < num_rows",
        ),
        Mutant::new("columns-of-the-tile", "as many columns are copied as the tile has", GENERAL).edit(
            FILE,
            " && chunk * Tile::CHUNK_ELEMENTS < columns;",
            ";",
        ),
        Mutant::new("copies-of-absent-rows", "rows that do not exist are copied from the first one", GENERAL)
            .edit(FILE, "exists ? 16u : 0u", "16u")
            .hazard(&["out of bounds"]),
    ]
}

fn stores() -> Vec<Mutant> {
    vec![
        Mutant::new("staged-output-unsynchronised", "no __syncwarp between staging the output and copying it out", D64)
            .edit(FILE, "__syncwarp();", "")
            .hazard(&[RACE])
            .fast(),
        Mutant::new("output-not-normalised", "odd columns of the output are not divided by the row's sum", D64)
            .edit_nth(2, FILE, "acc[t][tile][2 * half + 1] * scale[t][half]", "acc[t][tile][2 * half + 1]"),
        Mutant::new("output-column-lost", "the lanes of a row stage their columns in one place", D64)
            .edit(FILE, "column % Tile::CHUNK_ELEMENTS * sizeof(Element);", "0;")
            .hazard(&[RACE]),
        Mutant::new("output-read-without-swizzle", "the output is staged swizzled and read plain", D64).edit(
            FILE,
            "const Vector<Element>*>(tile_smem + Tile::offset(row, chunk));",
            "const Vector<Element>*>(tile_smem + row * Tile::ROW_BYTES + chunk * 16);",
        ),
        Mutant::new("output-one-row-more", "one row too many is stored", D64)
            .edit(FILE, "if (row >= num_rows ||", "if (row > num_rows ||")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("output-one-row-less", "the last row is not stored", D96).edit(
            FILE,
            "if (row >= num_rows ||",
            "if (row >= num_rows - 1 ||",
        ),
        Mutant::new("output-all-columns", "all columns of the tile are stored, however few the result has", GENERAL)
            .edit(FILE, "chunk * Tile::CHUNK_ELEMENTS >= columns)", "false)")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("stores-of-misaligned-rows", "misaligned rows are stored 16 bytes at a time", GENERAL)
            .edit_nth(2, FILE, "if (ANY_ROWS && !aligned) {", "if (false) {")
            .hazard(&[MISALIGNED]),
        Mutant::new("stores-always-by-element", "aligned rows are stored element by element", GENERAL)
            .edit_nth(2, FILE, "if (ANY_ROWS && !aligned) {", "if (true) {")
            .counters(),
        Mutant::new("f32-output-one-row-more", "one row too many is stored in f32", FLOAT)
            .edit(FILE, "if (row >= num_rows) continue;", "if (row > num_rows) continue;")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new(
            "f32-output-all-columns",
            "all columns of the tile are stored in f32, however few the result has",
            FLOAT,
        )
        .edit(FILE, "if (ANY_ROWS && column >= columns) continue;", "")
        .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new(
            "f32-output-not-normalised",
            "odd columns of an f32 output are not divided by the row's sum",
            FLOAT,
        )
        .edit_nth(1, FILE, "acc[t][tile][2 * half + 1] * scale[t][half]", "acc[t][tile][2 * half + 1]"),
        Mutant::new("partial-not-normalised", "odd columns of a partial result are not divided by the row's sum", D64)
            .edit_nth(1, FILE, "acc[t][tile][2 * half + 1] * scale[t][half]", "acc[t][tile][2 * half + 1]"),
        Mutant::new("f32-pairs-of-misaligned-rows", "misaligned rows of f32 are stored 8 bytes at a time", FLOAT)
            .edit_nth(1, FILE, "if (ANY_ROWS && !aligned) {", "if (false) {")
            .hazard(&[MISALIGNED]),
    ]
}

fn instructions() -> Vec<Mutant> {
    vec![
        Mutant::new("packed-halves-exchanged", "the two elements of a packed register change places", D64).edit(
            PTX,
            "asm(\"cvt.rn.f16x2.f32 %0, %1, %2;\" : \"=r\"(d) : \"f\"(high), \"f\"(low));",
            "asm(\"cvt.rn.f16x2.f32 %0, %1, %2;\" : \"=r\"(d) : \"f\"(low), \"f\"(high));",
        ),
        Mutant::new("wrong-element-type", "bf16 bits are multiplied as if they were f16", D96).edit(
            PTX,
            "\"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {",
            "\"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {",
        ),
        Mutant::new("operand-b-exchanged", "the two registers of operand B change places", D64).edit_nth(
            1,
            PTX,
            "\"r\"(b0), \"r\"(b1)",
            "\"r\"(b1), \"r\"(b0)",
        ),
        Mutant::new("packed-towards-zero", "weights and results are cut off instead of rounded to nearest", D96).edit(
            PTX,
            "asm(\"cvt.rn.bf16x2.f32 %0, %1, %2;\"",
            "asm(\"cvt.rz.bf16x2.f32 %0, %1, %2;\"",
        ),
        Mutant::new("packed-f16-towards-zero", "the same in f16", D64).edit(
            PTX,
            "asm(\"cvt.rn.f16x2.f32 %0, %1, %2;\"",
            "asm(\"cvt.rz.f16x2.f32 %0, %1, %2;\"",
        ),
    ]
}
