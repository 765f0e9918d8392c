//! kernels/lib/mask.cuh.

use super::{BIAS, D64, GENERAL, KEY_VALUE};
use crate::mutant::Mutant;

const FILE: &str = "lib/mask.cuh";

pub fn mutants() -> Vec<Mutant> {
    [band(), tiles(), queries()].concat()
}

fn band() -> Vec<Mutant> {
    vec![
        Mutant::new("causal-off-by-one", "a query does not see its own key", D64)
            .edit(FILE, "query + offset + right + 1", "query + offset + right")
            .fast(),
        Mutant::new("causal-offset-negated", "the offset counts the other way", D64).edit(
            FILE,
            "query + offset + right + 1",
            "query - offset + right + 1",
        ),
        Mutant::new("window-one-key-less", "a window begins one key late", D64).edit(
            FILE,
            "clamp(query + offset - left)",
            "clamp(query + offset - left + 1)",
        ),
        Mutant::new("window-one-key-more", "a window begins one key early", D64).edit(
            FILE,
            "clamp(query + offset - left)",
            "clamp(query + offset - left - 1)",
        ),
        Mutant::new(
            "positions-from-the-top",
            "query i sits at position i where the last query should see the last key",
            D64,
        )
        .edit(FILE, "shape.bottom_right != 0 ? len_kv - len_q", "shape.bottom_right != 0 ? 0"),
        Mutant::new("band-past-the-end", "a window may end after the keys that take part", D64).edit(
            FILE,
            "return min(max(key, prefix), end);",
            "return max(key, prefix);",
        ),
        Mutant::new("key-length-ignored", "keys past a sequence's length are seen", D64).edit(
            FILE,
            "min(min(len_kv, key_length), shape.key_end)",
            "min(len_kv, shape.key_end)",
        ),
        Mutant::new("key-end-ignored", "keys past the range that takes part are seen", D64).edit(
            FILE,
            "min(min(len_kv, key_length), shape.key_end)",
            "min(len_kv, key_length)",
        ),
        Mutant::new("key-begin-ignored", "keys before the range that takes part are seen", D64).edit(
            FILE,
            "begin = min(shape.key_begin, end);",
            "begin = 0;",
        ),
        Mutant::new("prefix-one-key-more", "the prefix has one key more", GENERAL).edit(
            FILE,
            "min(max(shape.prefix, begin), end)",
            "min(max(shape.prefix + 1, begin), end)",
        ),
        Mutant::new("prefix-one-key-less", "the prefix has one key less", GENERAL).edit(
            FILE,
            "min(max(shape.prefix, begin), end)",
            "min(max(shape.prefix - 1, begin), end)",
        ),
        Mutant::new("prefix-past-the-end", "the prefix may end after the keys that take part", GENERAL)
            .edit(FILE, "min(max(shape.prefix, begin), end)", "max(shape.prefix, begin)")
            .counters(),
        Mutant::new("prefix-inclusive", "the key after the prefix is seen", GENERAL).edit(
            FILE,
            "(key >= begin && key < prefix)",
            "(key >= begin && key <= prefix)",
        ),
        Mutant::new("prefix-from-key-0", "the prefix begins with key 0, whichever keys take part", GENERAL).edit(
            FILE,
            "(key >= begin && key < prefix)",
            "(key < prefix)",
        ),
        Mutant::new("window-inclusive", "the key after the window is seen", GENERAL).edit(
            FILE,
            "key < last(query);",
            "key <= last(query);",
        ),
        Mutant::new("window-of-later-keys", "all keys up to the end of the window are seen", GENERAL).edit(
            FILE,
            "key >= first(query) && key < last(query)",
            "key < last(query)",
        ),
    ]
}

fn tiles() -> Vec<Mutant> {
    vec![
        Mutant::new(
            "full-tiles-one-early",
            "tiles are taken for fully visible before the last row's window begins",
            D64,
        )
        .edit(FILE, "full_start = ceil_div(every_start, BLOCK_KV);", "full_start = every_start / BLOCK_KV;"),
        Mutant::new("full-tiles-of-last-row", "tiles that only the block's last row sees in full are not masked", D64)
            .edit(
                FILE,
                "full_end = band.last(first_query) / BLOCK_KV;",
                "full_end = band.last(last_query) / BLOCK_KV;",
            ),
        Mutant::new("first-tile-dropped", "the first tile is left out where the window begins inside of it", D64).edit(
            FILE,
            "start = window_start / BLOCK_KV;",
            "start = ceil_div(window_start, BLOCK_KV);",
        ),
        Mutant::new("last-tile-dropped", "the last tile is left out where the window ends inside of it", D64)
            .edit(FILE, "ceil_div(window_end, BLOCK_KV) : 0", "window_end / BLOCK_KV : 0")
            .fast(),
        Mutant::new("tiles-from-key-0", "tiles before the window are masked instead of left out", D64)
            .edit(FILE, "start = window_start / BLOCK_KV;", "start = 0;")
            .counters(),
        Mutant::new("tiles-of-the-next-row", "a block walks the keys that the next block's first row sees", D64)
            .edit(FILE, "max(band.last(last_query), window_start)", "max(band.last(last_query + 1), window_start)")
            .counters(),
        Mutant::new("window-end-unordered", "the window's end is not kept from lying before its start", D64)
            .edit(FILE, "max(band.last(last_query), window_start)", "band.last(last_query)")
            .equivalent("the last row's window ends after it begins, and it does not begin before the first row's"),
        Mutant::new("gap-from-inside-the-prefix", "the last tile of the prefix is left out", GENERAL).edit(
            FILE,
            "gap_start = ceil_div(band.prefix, BLOCK_KV);",
            "gap_start = band.prefix / BLOCK_KV;",
        ),
        Mutant::new("gap-into-the-window", "the first tile of the window is left out", GENERAL).edit(
            FILE,
            "gap_end = start;",
            "gap_end = start + 1;",
        ),
        Mutant::new(
            "prefix-without-window",
            "the prefix is left out where no query's window has a key after it",
            GENERAL,
        )
        .edit(FILE, "end = max(end, gap_start);", "end = end;"),
        Mutant::new("prefix-left-out", "the tiles of the prefix are left out too", GENERAL).edit(
            FILE,
            "next >= gap_start && next < gap_end",
            "next < gap_end",
        ),
    ]
}

fn queries() -> Vec<Mutant> {
    vec![
        Mutant::new("queries-of-the-last-key", "the queries before the tile's last key's are left out", KEY_VALUE)
            .edit(FILE, "max(from - band.right - band.offset, 0)", "max(to - band.right - band.offset, 0)"),
        Mutant::new(
            "queries-of-the-first-key",
            "the queries after the tile's first key's window are left out",
            KEY_VALUE,
        )
        .edit(FILE, "max(to + band.left - band.offset, 0)", "max(from + band.left - band.offset, 0)"),
        Mutant::new("queries-of-no-keys", "queries are walked for keys that take no part", KEY_VALUE)
            .edit(FILE, "if (from >= to) end = start;", "")
            // The scores of such keys are hidden, so that their weights and gradients are 0: only time is lost.
            .counters(),
        Mutant::new(
            "full-for-the-last-query",
            "keys that only a tile's last query sees are taken for fully visible",
            KEY_VALUE,
        )
        .edit(FILE, "end_key <= last(first_query);", "end_key <= last(last_query);"),
        Mutant::new("full-before-the-window", "keys before the window are taken for fully visible", KEY_VALUE).edit(
            FILE,
            "first_key >= from && end_key",
            "end_key",
        ),
        Mutant::new(
            "full-in-part-of-the-prefix",
            "keys that begin in the prefix are taken for fully visible",
            KEY_VALUE,
        )
        .edit(
            FILE,
            "(first_key >= begin && end_key <= prefix);",
            "(first_key >= begin && first_key < prefix);",
        ),
        Mutant::new("any-for-the-first-query", "only the tile's first query is asked whether it sees anything", BIAS)
            .edit(FILE, "min(end_key, last(last_query));", "min(end_key, last(first_query));"),
    ]
}
