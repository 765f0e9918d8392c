//! kernels/lib/hopper/mask.cuh.

use super::{HOPPER, HOPPER_D64};
use crate::mutant::Mutant;

const FILE: &str = "lib/hopper/mask.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("bits-of-one-column", "a lane is taken to have one column in every 8", HOPPER).edit(
            FILE,
            "min(from_first % 8, 2)",
            "min(from_first % 8, 1)",
        ),
        Mutant::new("bits-of-half-the-tiles", "columns of whole tiles count half", HOPPER).edit(
            FILE,
            "from_first / 8 * 2",
            "from_first / 8",
        ),
        Mutant::new("bits-of-lane-0", "every lane masks the columns of the first", HOPPER).edit(
            FILE,
            "2 * (ptx::thread_index() % 4)",
            "0",
        ),
        Mutant::new("bits-without-a-start", "keys before the window are seen", HOPPER_D64).edit(
            FILE,
            " & ~low_bits(first - 32 * word)",
            "",
        ),
        Mutant::new("bits-of-one-row", "both of a thread's rows see what the upper one sees", HOPPER).edit(
            FILE,
            "band.last(query[half])",
            "band.last(query[0])",
        ),
    ]
}
