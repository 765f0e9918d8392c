//! kernels/lib/tile.cuh and kernels/lib/ptx.cuh, seen through attention.

use super::{ASYNC, BOUNDS, D64, D96, GENERAL, MISALIGNED, RACE, UNDEFINED};
use crate::mutant::Mutant;

const FILE: &str = "lib/tile.cuh";
const PTX: &str = "lib/ptx.cuh";

pub fn mutants() -> Vec<Mutant> {
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
        Mutant::new("pair-added", "the pair number is added to a swizzled address", D64).edit(
            FILE,
            "(lane_address ^ ((pair % PAIRS) << 5))",
            "(lane_address + ((pair % PAIRS) << 5))",
        )
.hazard(&[ASYNC]),
        Mutant::new("pair-of-three", "the pairs beyond the swizzle's period are a chunk too near", D96).edit(
            FILE,
            "(pair / PAIRS) * PERIOD * 16;",
            "(pair / PAIRS) * (PERIOD - 1) * 16;",
        ),
        Mutant::new("fragment-row-exchanged", "the lanes of an accumulator are taken column by column", D64).edit(
            FILE,
            "return lane() / 4 + 8 * half;",
            "return lane() % 8 + 8 * half;",
        )
.hazard(&[RACE]),
        Mutant::new("fragment-column-single", "a lane's two columns are taken for eight apart", D64).edit(
            FILE,
            "return 2 * (lane() % 4) + i % 2;",
            "return lane() % 4 + i % 2 * 4;",
        )
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
        Mutant::new("copiers-unbounded", "threads beyond the last whole pass copy too", D96)
            .edit_nth(1, FILE, "if (COPIERS < THREADS && threadIdx.x >= COPIERS) return;", "")
            .hazard(&[RACE, BOUNDS])
            .fast(),
        Mutant::new("zero-fill-missing", "rows past the end are copied instead of zeroed", D64)
            .edit(FILE, "pass * PASS_ROWS < valid ? 16u : 0u", "16u")
            .hazard(&[BOUNDS])
            .fast(),
        Mutant::new("zero-fill-one-row-late", "one row past the end is copied", D64).edit(
            FILE,
            "pass * PASS_ROWS < valid ? 16u : 0u",
            "pass * PASS_ROWS <= valid ? 16u : 0u",
        )
.hazard(&[BOUNDS]),
        Mutant::new("zero-fill-of-first-tile", "every tile has as many valid rows as the first", D64).edit(
            FILE,
            "return num_rows - first_row - static_cast<int>",
            "return num_rows - static_cast<int>",
        ),
        Mutant::new("tile-advance-missing", "every tile is copied from the first one's rows", D64).edit(
            FILE,
            "const char* pass_gmem = source + static_cast<int64_t>(row_bytes) * first_row;",
            "const char* pass_gmem = source;",
        ),
        Mutant::new("row-stride-assumed", "the rows of a tensor are taken to follow each other", D64).edit(
            FILE,
            "pass_gmem + static_cast<int64_t>(row_bytes) * (pass * PASS_ROWS),",
            "pass_gmem + static_cast<int64_t>(Tile::ROW_BYTES) * (pass * PASS_ROWS),",
        ),
        Mutant::new("copies-of-half-sectors", "neighbouring threads copy 16 bytes of a row, and nobody near the 16 bytes beside them", D64)
            .edit(
                FILE,
                "Tile::offset(threadIdx.x / Tile::CHUNKS, threadIdx.x % Tile::CHUNKS)",
                "Tile::offset(threadIdx.x % PASS_ROWS, threadIdx.x / PASS_ROWS % 2 * 4 + threadIdx.x / 32)",
            )
            .edit(
                FILE,
                "source(tile_gmem + threadIdx.x / Tile::CHUNKS * row_stride + threadIdx.x % Tile::CHUNKS * 16)",
                "source(tile_gmem + threadIdx.x % PASS_ROWS * row_stride + (threadIdx.x / PASS_ROWS % 2 * 4 + threadIdx.x / 32) * 16)",
            )
            .counters(),
        Mutant::new("elements-one-row-late", "one row past the end is loaded, element by element", GENERAL).edit(
            FILE,
            "if (pass * PASS_ROWS < valid) {",
            "if (pass * PASS_ROWS <= valid) {",
        )
.hazard(&[BOUNDS]),
        Mutant::new("elements-not-zeroed", "rows past the end hold what registers held", GENERAL)
            .edit(FILE, "Vector<Element> vector = {};", "Vector<Element> vector;")
            .hazard(&[UNDEFINED]),
        Mutant::new("packed-halves-exchanged", "the two elements of a packed register change places", D64).edit(
            PTX,
            "asm(\"cvt.rn.f16x2.f32 %0, %1, %2;\" : \"=r\"(d) : \"f\"(high), \"f\"(low));",
            "asm(\"cvt.rn.f16x2.f32 %0, %1, %2;\" : \"=r\"(d) : \"f\"(low), \"f\"(high));",
        ),
        Mutant::new("wrong-element-type", "bf16 bits are multiplied as if they were f16", D96).edit_nth(
            2,
            PTX,
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {",
        ),
        Mutant::new("operand-b-exchanged", "the two registers of operand B change places", D64).edit_nth(
            1,
            PTX,
            "\"r\"(b0), \"r\"(b1));",
            "\"r\"(b1), \"r\"(b0));",
        ),
        Mutant::new("packed-towards-zero", "weights and results are cut off instead of rounded to nearest", D96)
            .edit(PTX, "asm(\"cvt.rn.bf16x2.f32 %0, %1, %2;\"", "asm(\"cvt.rz.bf16x2.f32 %0, %1, %2;\""),
        Mutant::new("packed-f16-towards-zero", "the same in f16", D64)
            .edit(PTX, "asm(\"cvt.rn.f16x2.f32 %0, %1, %2;\"", "asm(\"cvt.rz.f16x2.f32 %0, %1, %2;\""),
    ]
}
