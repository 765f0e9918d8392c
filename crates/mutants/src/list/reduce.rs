//! kernels/lib/reduce.cuh.

use super::{
    BARRIER, DEADLOCK, INVALID, NORM_BLOCK, NORM_WARP, PARTICIPANTS, RACE, SOFTMAX_BLOCK, SOFTMAX_STREAM, SOFTMAX_WARP,
    UNWRITTEN,
};
use crate::mutant::Mutant;

const FILE: &str = "lib/reduce.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("partials-unsynchronised", "partials are read before every warp has written its own", SOFTMAX_BLOCK)
            .edit(FILE, "__syncthreads();", "")
            .hazard(&[RACE, UNWRITTEN])
            .fast(),
        Mutant::new("partials-of-a-warp-ordered", "partials are read after a barrier of the own warp only", NORM_BLOCK)
            .edit(FILE, "__syncthreads();", "__syncwarp();")
            .hazard(&[RACE, UNWRITTEN]),
        Mutant::new("partials-of-warp-0-only", "only warp 0 leaves its partial", SOFTMAX_STREAM)
            .edit(FILE, "if (threadIdx.x % 32 == 0) partials", "if (threadIdx.x == 0) partials")
            .hazard(&[UNWRITTEN]),
        Mutant::new("partials-of-every-lane", "all lanes write their warp's partial", NORM_BLOCK)
            .edit(FILE, "if (threadIdx.x % 32 == 0) partials", "partials")
            .equivalent("after the exchange all lanes of a warp hold one value, and they store it in one instruction"),
        Mutant::new("partial-of-last-warp-lost", "the last warp's partial is left out", SOFTMAX_BLOCK)
            .edit(FILE, "warp < THREADS / 32; ++warp", "warp < THREADS / 32 - 1; ++warp"),
        Mutant::new("partial-of-warp-0-twice", "warp 0's partial counts twice", NORM_BLOCK)
            .edit(FILE, "for (int warp = 1; warp", "for (int warp = 0; warp"),
        Mutant::new("exchange-starts-at-8", "the two halves of a warp never meet", SOFTMAX_WARP)
            .edit(FILE, "int distance = 16;", "int distance = 8;"),
        Mutant::new("exchange-ends-at-2", "neighbouring lanes never meet", NORM_WARP)
            .edit(FILE, "distance > 0; distance /= 2", "distance > 1; distance /= 2")
            .fast(),
        Mutant::new("exchange-downwards", "lanes take values from below only, so that lane 0 alone has all", SOFTMAX_WARP)
            .edit(FILE, "__shfl_xor_sync(0xffffffff, value, distance)", "__shfl_down_sync(0xffffffff, value, distance)"),
        Mutant::new("barrier-of-lane-0", "only lane 0 of each warp arrives at the barrier", SOFTMAX_BLOCK)
            .edit(
                FILE,
                "if (threadIdx.x % 32 == 0) partials_smem[threadIdx.x / 32] = value;\n    // Every warp's partial is written before any thread reads them.\n    __syncthreads();",
                "if (threadIdx.x % 32 == 0) { partials_smem[threadIdx.x / 32] = value;\n\n    __syncthreads(); }",
            )
            .hazard(&[BARRIER]),
        Mutant::new(
            "exchange-among-active-lanes",
            "lanes exchange with those that happen to be there, after a branch that may have parted them",
            SOFTMAX_WARP,
        )
        .edit(FILE, "__shfl_xor_sync(0xffffffff, value, distance)", "__shfl_xor_sync(__activemask(), value, distance)")
        .hazard(&[PARTICIPANTS, INVALID]).fast(),
        Mutant::new("exchange-without-upper-half", "the upper half of a warp leaves before the exchange", SOFTMAX_WARP)
            .edit("softmax.cu", "if (row >= params.rows) return;", "if (row >= params.rows || threadIdx.x % 32 >= 16) return;")
            .hazard(&[PARTICIPANTS, INVALID]),
        Mutant::new("exchange-of-half-a-warp", "a branch lets half of the lanes exchange before the others", NORM_WARP)
            .edit(
                FILE,
                "value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance));",
                "if (threadIdx.x % 32 < 16) value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance)); else value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance));",
            )
            .hazard(&[PARTICIPANTS]),
        Mutant::new("barrier-of-too-many", "the barrier waits for a warp that does not exist", SOFTMAX_BLOCK)
            .edit(FILE, "__syncthreads();", "asm volatile(\"bar.sync 1, 288;\" ::: \"memory\");")
            .hazard(&[DEADLOCK]),
        Mutant::new("barrier-of-too-few", "the barrier opens when half of the warps are there", NORM_BLOCK)
            .edit(FILE, "__syncthreads();", "asm volatile(\"bar.sync 1, 128;\" ::: \"memory\");")
            .hazard(&[UNWRITTEN, RACE]),
    ]
}
