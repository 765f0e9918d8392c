//! kernels/lib/access.cuh.

use super::{
    BOUNDS, MISALIGNED, NORM_BACKWARD_GENERAL, NORM_GENERAL, NORM_GENERAL_FLOAT, NORM_LANES, SOFTMAX_BACKWARD,
    SOFTMAX_GENERAL, SOFTMAX_GENERAL_BLOCK, SOFTMAX_LANES,
};
use crate::mutant::Mutant;

const FILE: &str = "lib/access.cuh";

pub fn mutants() -> Vec<Mutant> {
    let is_aligned = "ALIGNED || address % (4 * WIDE) == 0";
    let is_even = "sizeof(Element) == 4 || address % 4 == 0";
    vec![
        Mutant::new("access-upper-half-lost", "both elements of a word are its lower one", SOFTMAX_LANES)
            .edit(FILE, "words[i / 2] >> i % 2 * 16", "words[i / 2]")
            .fast(),
        Mutant::new("access-halves-exchanged", "the elements of a word change places", SOFTMAX_BACKWARD).edit(
            FILE,
            "ptx::pack_rn(values[2 * i], values[2 * i + 1], Element())",
            "ptx::pack_rn(values[2 * i + 1], values[2 * i], Element())",
        ),
        Mutant::new(
            "access-wide-loads-of-words",
            "what lies on a word's boundary is loaded 16 bytes at a time",
            NORM_LANES,
        )
        .edit_nth(1, FILE, is_aligned, "ALIGNED || address % 4 == 0")
        .hazard(&[MISALIGNED]),
        Mutant::new(
            "access-wide-stores-of-words",
            "what lies on a word's boundary is stored 16 bytes at a time",
            NORM_BACKWARD_GENERAL,
        )
        .edit_nth(2, FILE, is_aligned, "ALIGNED || address % 4 == 0")
        .hazard(&[MISALIGNED]),
        Mutant::new("access-words-of-halves", "what lies across words is loaded word by word", SOFTMAX_GENERAL)
            .edit_nth(1, FILE, is_even, "address % 2 == 0")
            .hazard(&[MISALIGNED]),
        Mutant::new("access-stored-words-of-halves", "what lies across words is stored word by word", NORM_GENERAL)
            .edit_nth(2, FILE, is_even, "address % 2 == 0")
            .hazard(&[MISALIGNED])
            .fast(),
        Mutant::new("access-loads-never-wide", "aligned rows of general kernels are loaded word by word", NORM_GENERAL)
            .edit_nth(1, FILE, is_aligned, "ALIGNED")
            .counters(),
        Mutant::new("access-funnel-reversed", "the words that a word lies across change places", SOFTMAX_GENERAL).edit(
            FILE,
            "__funnelshift_l(low, high, 16);",
            "__funnelshift_l(high, low, 16);",
        ),
        Mutant::new("access-funnel-of-the-first", "every word begins with the first half-word", NORM_GENERAL).edit(
            FILE,
            "low = high;",
            "high;",
        ),
        Mutant::new("access-first-half-low", "the first half-word is taken for a word's lower half", SOFTMAX_GENERAL)
            .edit(
                FILE,
                "uint32_t low = *reinterpret_cast<const uint16_t*>(bytes) << 16;",
                "uint32_t low = *reinterpret_cast<const uint16_t*>(bytes);",
            ),
        Mutant::new("access-whole-last-word", "half a word beside the last element is loaded with it", SOFTMAX_GENERAL)
            .edit(
                FILE,
                "w + 1 < WORDS ? *reinterpret_cast<const uint32_t*>(next)",
                "w < WORDS ? *reinterpret_cast<const uint32_t*>(next)",
            )
            .hazard(&[BOUNDS]),
        Mutant::new("access-first-half-stored-wrong", "the first half-word stored is the second", NORM_GENERAL)
            .edit_nth(2, FILE, "= static_cast<uint16_t>(words[0]);", "= static_cast<uint16_t>(words[0] >> 16);"),
        Mutant::new("access-last-half-stored-wrong", "the last half-word stored is the one before", NORM_GENERAL).edit(
            FILE,
            "static_cast<uint16_t>(words[WORDS - 1] >> 16)",
            "static_cast<uint16_t>(words[WORDS - 1])",
        ),
        Mutant::new(
            "access-stored-funnel-reversed",
            "the words that a stored word is made of change places",
            NORM_BACKWARD_GENERAL,
        )
        .edit(
            FILE,
            "__funnelshift_l(words[w], words[w + 1], 16)",
            "__funnelshift_l(words[w + 1], words[w], 16)",
        ),
        Mutant::new("access-bytes-of-two", "a mask's elements have two bytes", SOFTMAX_GENERAL_BLOCK)
            .edit(FILE, "type == ELEMENT_U8 ? 0 : 1;", "1;")
            .hazard(&[BOUNDS]),
        Mutant::new("access-types-exchanged", "f16 is taken for bf16", NORM_GENERAL_FLOAT).edit(
            FILE,
            "} else if (type == ELEMENT_F16) {",
            "} else if (type == ELEMENT_BF16) {",
        ),
        Mutant::new("access-f32-lost", "f32 tensors of a 16-bit kernel have 16 bits", NORM_GENERAL).edit_nth(
            1,
            FILE,
            "if (type == ELEMENT_F32) {",
            "if (type == ELEMENT_U8) {",
        ),
        Mutant::new("access-not-rounded", "a sum is not rounded to its type", NORM_LANES).edit(
            FILE,
            "value = to_float(from_float<decltype(zero)>(value));",
            "",
        ),
    ]
}
