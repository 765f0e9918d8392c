//! kernels/lib/mask.cuh.

use super::{BOUNDS, D64, D96, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "lib/mask.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("causal-off-by-one", "a query does not see its own key", D64)
            .edit(FILE, "query_idx + offset + 1", "query_idx + offset")
            .fast(),
        Mutant::new("causal-offset-negated", "the causal offset counts the other way", D64).edit(
            FILE,
            "query_idx + offset + 1",
            "query_idx - offset + 1",
        ),
        Mutant::new("causal-below-zero", "a query before all keys sees a negative number of them", D64)
            .edit(FILE, "min(max(query_idx + offset + 1, 0), num_keys)", "min(query_idx + offset + 1, num_keys)")
            .hazard(&[BOUNDS, UNWRITTEN]),
        Mutant::new("causal-past-the-length", "a causal mask forgets the sequence's length", D64).edit(
            FILE,
            "min(max(query_idx + offset + 1, 0), num_keys)",
            "max(query_idx + offset + 1, 0)",
        ),
        Mutant::new("length-of-first-sequence", "every sequence has the first one's length", D96).edit(
            FILE,
            "(params.key_lengths)[batch_idx];",
            "(params.key_lengths)[0];",
        ),
        Mutant::new("length-ignored", "keys past a sequence's length are seen", D64).edit(
            FILE,
            "if (params.key_lengths != 0) {",
            "if (false) {",
        ),
        Mutant::new("length-always-read", "key lengths are read where there are none", D64)
            .edit(FILE, "if (params.key_lengths != 0) {", "if (true) {")
            .hazard(&[BOUNDS]),
        Mutant::new("length-below-zero", "a negative length is taken as it is", D64)
            .edit(FILE, "min(max(length, 0), num_keys)", "min(length, num_keys)")
            .hazard(&[UNWRITTEN]),
    ]
}
