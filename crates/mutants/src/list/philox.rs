//! kernels/lib/philox.cuh.

use super::{GENERAL, KEY_VALUE, NORM_BACKWARD_GENERAL, NORM_GENERAL, NORM_GENERAL_FLOAT};
use crate::mutant::Mutant;

const FILE: &str = "lib/philox.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("nine-rounds", "random numbers are drawn in nine rounds", GENERAL)
            .edit(FILE, "round < 10", "round < 9")
            .fast(),
        Mutant::new("multiplier-wrong", "one of the multipliers has another last digit", GENERAL).edit(
            FILE,
            "high_0 = __umulhi(0xD2511F53u",
            "high_0 = __umulhi(0xD2511F57u",
        ),
        Mutant::new("second-multiplier-wrong", "the other multiplier has another last digit", GENERAL).edit(
            FILE,
            "low_1 = 0xCD9E8D57u",
            "low_1 = 0xCD9E8D53u",
        ),
        Mutant::new("key-step-wrong", "the key is stepped by another number", GENERAL).edit(
            FILE,
            "key_0 += 0x9E3779B9u",
            "key_0 += 0x9E3779B1u",
        ),
        Mutant::new("second-key-not-stepped", "the second half of the key stays", GENERAL).edit(
            FILE,
            "key_1 += 0xBB67AE85u;",
            "",
        ),
        Mutant::new("words-exchanged", "two words of a round change places", GENERAL)
            .edit(FILE, "c_1 = low_1;", "c_1 = low_0;")
            .edit(FILE, "c_3 = low_0;", "c_3 = low_1;"),
        Mutant::new("seed-of-32-bits", "the upper half of the seed is lost", GENERAL).edit(
            FILE,
            "static_cast<uint32_t>(seed >> 32)",
            "0",
        ),
        Mutant::new("offset-lost", "the offset of the random numbers is lost", GENERAL).edit(
            FILE,
            "c_3 = offset;",
            "c_3 = 0;",
        ),
        Mutant::new("query-and-head-exchanged", "query and head change places in the counter", GENERAL).edit(
            FILE,
            "c_1 = query, c_2 = sequence_head",
            "c_1 = sequence_head, c_2 = query",
        ),
        Mutant::new(
            "dropped-and-kept-exchanged",
            "the third of four weights is kept where it has to be dropped",
            GENERAL,
        )
        .edit(FILE, "(c_2 >= below) << 2", "(c_2 < below) << 2"),
        Mutant::new("word-of-another-key", "the fourth of four weights goes by the first one's number", GENERAL).edit(
            FILE,
            "(c_3 >= below) << 3",
            "(c_0 >= below) << 3",
        ),
        Mutant::new("key-groups-of-a-tile", "both groups of four keys of a tile are the first one", GENERAL).edit(
            FILE,
            "first_key / 4 + lane % 4 / 2",
            "first_key / 4",
        ),
        Mutant::new("random-rows-exchanged", "odd lanes ask for the upper row too", GENERAL).edit(
            FILE,
            "half ? query[1] : query[0]",
            "query[0]",
        ),
        Mutant::new("random-words-not-moved", "odd lanes take the words of even ones", GENERAL).edit(
            FILE,
            "lane & ~1) >> lane % 2 * 2",
            "lane & ~1)",
        ),
        Mutant::new("lower-row-from-even-lane", "the lower row takes the upper one's numbers", GENERAL).edit(
            FILE,
            "__shfl_sync(0xffffffff, four, lane | 1)",
            "__shfl_sync(0xffffffff, four, lane & ~1)",
        ),
        Mutant::new("transposed-half-lost", "keys 8 to 15 take the numbers of keys 0 to 7", KEY_VALUE).edit(
            FILE,
            "first_key + 8 * (pair / 2) + row",
            "first_key + row",
        ),
        Mutant::new("transposed-query-lost", "odd queries take the numbers of even ones", KEY_VALUE).edit(
            FILE,
            "fragment::column(0) + pair % 2",
            "fragment::column(0)",
        ),
        Mutant::new("transposed-group-lost", "every lane takes the numbers of its own row on", KEY_VALUE).edit(
            FILE,
            "(row - pair + i) * 4",
            "(row / 4 * 4 + i % 2) * 4",
        ),
        Mutant::new("transposed-word-lost", "all keys of a group go by the first word", KEY_VALUE)
            .edit(FILE, "of_pair >> row % 4 & 1", "of_pair & 1")
            .fast(),
        Mutant::new(
            "row-random-words-not-moved",
            "columns take the words of their group from the first on",
            NORM_GENERAL,
        )
        .edit(FILE, "return bits >> first % 4;", "return bits;")
        .fast(),
        Mutant::new("row-random-last-group-lost", "a slot across groups lacks the last one's words", NORM_GENERAL)
            .edit(FILE, "if (first % 4 != 0) bits |=", "if (first % 4 == 4) bits |="),
        Mutant::new(
            "row-random-last-group-first",
            "a slot across groups ends with the first one's words",
            NORM_GENERAL_FLOAT,
        )
        .edit(FILE, "keep_four(first / 4 + N / 4, row, 0)", "keep_four(first / 4, row, 0)"),
        Mutant::new(
            "row-random-group-twice",
            "both groups of a slot go by the first one's words",
            NORM_BACKWARD_GENERAL,
        )
        .edit(FILE, "keep_four(first / 4 + four / 4, row, 0)", "keep_four(first / 4, row, 0)"),
        Mutant::new("row-random-counter", "the row is the counter's third word", NORM_GENERAL_FLOAT)
            .edit(FILE, "keep_four(first / 4 + four / 4, row, 0)", "keep_four(first / 4 + four / 4, 0, row)")
            .edit(FILE, "keep_four(first / 4 + N / 4, row, 0)", "keep_four(first / 4 + N / 4, 0, row)"),
    ]
}
