//! kernels/attention_backward_sinks.cu.

use super::SINKS;
use crate::mutant::Mutant;

const FILE: &str = "attention_backward_sinks.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("d-sinks-positive", "the gradient has the other sign", SINKS)
            .edit(FILE, "fmaf(-weight, delta, sum)", "fmaf(weight, delta, sum)")
            .fast(),
        Mutant::new("d-sinks-of-nothing", "a row without anything and a sink of -inf computes -inf - (-inf)", SINKS)
            .edit(FILE, "lse == -CUDART_INF_F ? 0.0f : ptx::exp2_approx", "ptx::exp2_approx"),
        Mutant::new("d-sinks-in-base-e", "weights are powers of 2 of natural logs", SINKS).edit(
            FILE,
            "(sink - lse) * LOG2E",
            "sink - lse",
        ),
        Mutant::new("d-sinks-of-sequence-0", "only the first sequence counts", SINKS).edit(
            FILE,
            "batch_idx * params.lse_batch +",
            "0 * params.lse_batch +",
        ),
        Mutant::new("d-sinks-of-head-0", "all heads have the first one's rows", SINKS).edit(
            FILE,
            "+ head * params.lse_head;",
            ";",
        ),
        Mutant::new("d-sinks-of-every-other-row", "a thread takes every other of its rows", SINKS).edit(
            FILE,
            "query += THREADS",
            "query += 2 * THREADS",
        ),
        Mutant::new("d-sinks-of-warp-0", "only the first warp's rows count", SINKS).edit(
            FILE,
            "sum = reduce_row<Sum, WholeBlock>(sum, partials_smem);",
            "sum = reduce_lanes<Sum, 32>(sum);",
        ),
    ]
}
