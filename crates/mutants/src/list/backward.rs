//! kernels/lib/backward.cuh.

use super::{KEY_VALUE, QUERY};
use crate::mutant::Mutant;

const FILE: &str = "lib/backward.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
Mutant::new("weights-of-empty-rows", "a row that saw nothing computes -inf - (-inf)", QUERY)
.edit(FILE, "lse == -CUDART_INF_F ? CUDART_INF_F : lse * LOG2E", "lse * LOG2E")
.fast(),
Mutant::new("lse-taken-for-base-2", "weights are taken relative to lse as if it were in base 2", QUERY)
.edit(FILE, "CUDART_INF_F : lse * LOG2E", "CUDART_INF_F : lse"),
Mutant::new("delta-added", "delta is added instead of subtracted", QUERY)
.edit(FILE, "weight * (dp - delta)", "weight * (dp + delta)"),
Mutant::new("derivative-left-out", "the derivative of capped scores is left out", KEY_VALUE)
.edit(FILE, " * (dp - delta) * derivative;", " * (dp - delta);"),
Mutant::new("hidden-gradient-multiplied", "what is hidden is multiplied by its weight of 0, not left out", QUERY)
.edit(FILE, "return weight == 0.0f ? 0.0f : weight *", "return weight *")
.equivalent("whatever is multiplied by a weight of 0 is a number as long as the inputs are; and a hidden key or value of NaN reaches the results of its tile all the same, through the products with P and dS"),
]
}
