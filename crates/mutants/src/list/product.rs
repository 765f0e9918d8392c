//! kernels/lib/product.cuh.

use super::{D64, D96, FLOAT, KEY_VALUE, KEY_VALUE_WIDE, UNDEFINED};
use crate::mutant::Mutant;

const FILE: &str = "lib/product.cuh";

pub fn mutants() -> Vec<Mutant> {
    [tensor_cores(), floats()].concat()
}

fn tensor_cores() -> Vec<Mutant> {
    vec![
        Mutant::new("k-fragment-as-a", "K is read in the order of operand A", D64).edit(
            FILE,
            "return TileReader(tile_smem, fragment::b_row(), fragment::b_chunk());",
            "return TileReader(tile_smem, fragment::a_row(), fragment::a_chunk());",
        ),
        Mutant::new("v-not-transposed", "V is read without .trans", D64).edit(
            FILE,
            "ptx::ldmatrix_x4_trans(frag,",
            "ptx::ldmatrix_x4(frag,",
        ),
        Mutant::new("v-fragments-exchanged", "two matrices of V's fragment change places", D96).edit(
            FILE,
            "p[t].frag[step], b_frag[0], b_frag[1]",
            "p[t].frag[step], b_frag[0], b_frag[2]",
        ),
        Mutant::new("p-fragment-exchanged", "row half and column half of P's fragment change places", D64).edit(
            FILE,
            "frag[tile / 2][tile % 2 * 2 + half]",
            "frag[tile / 2][tile % 2 + 2 * half]",
        ),
        Mutant::new("k-tile-twice", "both key tiles of a pair are the first one", D64).edit(
            FILE,
            "a_frag[t], b_frag[2], b_frag[3]",
            "a_frag[t], b_frag[0], b_frag[1]",
        ),
        Mutant::new("q-step-constant", "every step of S = Q K takes the first 16 columns of Q", D64).edit(
            FILE,
            "reader.fetch(frag[step], step)",
            "reader.fetch(frag[step], 0)",
        ),
        Mutant::new("q-step-constant-in-memory", "the same where Q is read for every tile of keys", D96).edit(
            FILE,
            "a.fetch(a_frag, step);",
            "a.fetch(a_frag, 0);",
        ),
        Mutant::new("q-rows-of-first-tile", "both row tiles of a warp take Q's first 16 rows", D64).edit(
            FILE,
            "load(frag[t], t, step);",
            "load(frag[t], 0, step);",
        ),
        Mutant::new("start-lost", "odd tiles of scores begin with what was there", D64)
            .edit(FILE, "step == 0 ? start[t] : odd", "odd")
            .hazard(&[UNDEFINED]),
        Mutant::new("start-every-step", "every step of S = Q K begins again", D64).edit(
            FILE,
            "step == 0 ? start[t] : even",
            "start[t]",
        ),
        Mutant::new("v-block-constant", "every step of O = P V takes the first 16 keys of V", D64).edit_nth(
            2,
            FILE,
            "block * 16 * Tile::ROW_BYTES",
            "0 * block * 16 * Tile::ROW_BYTES",
        ),
        Mutant::new("v-without-swizzle", "V is stored swizzled and read plain", D64)
            .edit(
                FILE,
                "address(ptx::shared_address(tile_smem) + Tile::offset(row, chunk))",
                "address(ptx::shared_address(tile_smem) + row * Tile::ROW_BYTES + chunk * 16)",
            )
            .fast(),
        Mutant::new("moved-not", "the tile of values is read in place of the one of keys", KEY_VALUE).edit(
            FILE,
            "reader.address += ptx::shared_address(other_smem) - ptx::shared_address(tile_smem);",
            "",
        ),
        Mutant::new("column-part-lost", "both warps of 16 keys compute the first half of the columns", KEY_VALUE_WIDE)
            .edit(FILE, "reader.address += column_bytes;", ""),
    ]
}

fn floats() -> Vec<Mutant> {
    vec![
        Mutant::new("f32-lower-row-lost", "rows 8 to 15 are multiplied as rows 0 to 7", FLOAT).edit(
            FILE,
            "a.four(fragment::row(1), chunk)",
            "a.four(fragment::row(0), chunk)",
        ),
        Mutant::new("f32-columns-alike", "a lane's two columns are the first one", FLOAT).edit(
            FILE,
            "b.four(8 * tile + fragment::column(i), chunk)",
            "b.four(8 * tile + fragment::column(0), chunk)",
        ),
        Mutant::new("f32-fourth-element-lost", "the fourth element of a chunk is multiplied with the third", FLOAT)
            .edit(FILE, "fmaf(lower.w, column.w,", "fmaf(lower.w, column.z,"),
        Mutant::new("f32-chunks-lost", "half of the columns are left out of a score", FLOAT).edit(
            FILE,
            "chunk < DEPTH / 4;",
            "chunk < DEPTH / 8;",
        ),
        Mutant::new("f32-weights-of-the-lane", "every lane multiplies with its own weights only", FLOAT).edit(
            FILE,
            "fragment::lane() / 4 * 4 + j;",
            "fragment::lane();",
        ),
        Mutant::new("f32-weights-of-other-rows", "the weights come from another row's lanes", FLOAT).edit(
            FILE,
            "fragment::lane() / 4 * 4 + j;",
            "fragment::lane() / 8 * 8 + j;",
        ),
        Mutant::new("f32-weights-of-the-upper-row", "rows 8 to 15 take the weights of rows 0 to 7", FLOAT).edit(
            FILE,
            "p[depth_tile][2 + i], source",
            "p[depth_tile][i], source",
        ),
        Mutant::new("f32-key-lost", "odd weights are multiplied with even keys' values", FLOAT).edit(
            FILE,
            "8 * depth_tile + 2 * j + i,",
            "8 * depth_tile + 2 * j,",
        ),
        Mutant::new("f32-value-columns-alike", "odd columns take the values of even ones", FLOAT).edit(
            FILE,
            "acc[tile][3] = fmaf(lower, columns.y,",
            "acc[tile][3] = fmaf(lower, columns.x,",
        ),
        Mutant::new("f32-place-in-chunk-lost", "columns are read from the start of their chunk", FLOAT).edit(
            FILE,
            " + column % 4 * 4);",
            ");",
        ),
        Mutant::new("f32-rows-of-warp-0", "every warp multiplies the rows of warp 0", FLOAT).edit(
            FILE,
            "+ first_row * Tile::ROW_BYTES)",
            ")",
        ),
        Mutant::new("f32-weights-exchanged", "a lane's two weights of a row change places", FLOAT)
            .edit(FILE, "frag[tile][2 * half] = low;", "frag[tile][2 * half] = high;")
            .edit(FILE, "frag[tile][2 * half + 1] = high;", "frag[tile][2 * half + 1] = low;"),
    ]
}
