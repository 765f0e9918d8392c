//! kernels/lib/reduce.cuh.

use super::{
    BARRIER, DEADLOCK, INVALID, NORM_BACKWARD_BLOCK, NORM_BLOCK, NORM_LANES, PARTICIPANTS, RACE, SOFTMAX_BLOCK,
    SOFTMAX_GENERAL_BLOCK, SOFTMAX_LANES, UNWRITTEN,
};
use crate::mutant::Mutant;

const FILE: &str = "lib/reduce.cuh";

pub fn mutants() -> Vec<Mutant> {
    let exchange = "value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance));";
    vec![
        Mutant::new("partials-unsynchronised", "partials are read before every warp has written its own", SOFTMAX_BLOCK)
            .edit(FILE, "__syncthreads();", "")
            .hazard(&[RACE, UNWRITTEN])
            .fast(),
        Mutant::new("partials-of-a-warp-ordered", "partials are read after a barrier of the own warp only", NORM_BLOCK)
            .edit(FILE, "__syncthreads();", "__syncwarp();")
            .hazard(&[RACE, UNWRITTEN]),
        Mutant::new("partials-of-warp-0-only", "only warp 0 leaves its partial", SOFTMAX_GENERAL_BLOCK)
            .edit(FILE, "if (lane == 0) {", "if (threadIdx.x == 0) {")
            .hazard(&[UNWRITTEN]),
        Mutant::new("partials-of-every-lane", "all lanes write their warp's partial", NORM_BLOCK)
            .edit(FILE, "if (lane == 0) {", "if (true) {")
            .equivalent("after the exchange all lanes of a warp hold one value, and they store it in one instruction"),
        Mutant::new("partials-of-one-line", "the partials of two values share their memory", NORM_BACKWARD_BLOCK)
            .edit(FILE, "partials_smem[i][threadIdx.x / 32] = values[i];", "partials_smem[0][threadIdx.x / 32] = values[i];")
            .edit(FILE, "partials_smem[i][lane]", "partials_smem[0][lane]"),
        Mutant::new("partial-of-last-warp-lost", "the last warp's partial is left out", SOFTMAX_BLOCK).edit(
            FILE,
            "lane < blockDim.x / 32;",
            "lane < blockDim.x / 32 - 1;",
        ),
        Mutant::new("partials-of-absent-warps", "partials are read of warps that a block does not have", NORM_BLOCK)
            .edit(FILE, "lane < blockDim.x / 32;", "lane < 32;")
            .hazard(&[UNWRITTEN]),
        Mutant::new("partials-of-16-warps", "partials of more than 16 warps are left out", SOFTMAX_BLOCK).edit(
            FILE,
            "lane < blockDim.x / 32;",
            "lane < min(blockDim.x / 32, 16);",
        ),
        Mutant::new("partial-maximum-of-nothing", "lanes without a warp hold a maximum of 0", SOFTMAX_BLOCK).edit(
            FILE,
            "partials_smem[i][lane] : Operation::identity()",
            "partials_smem[i][lane] : 0.0f",
        ),
        Mutant::new("exchange-starts-at-half", "the two halves of a row's lanes never meet", SOFTMAX_LANES).edit(
            FILE,
            "int distance = THREADS / 2;",
            "int distance = THREADS / 4;",
        ),
        Mutant::new("exchange-across-rows", "lanes of two rows meet", NORM_LANES).edit(
            FILE,
            "int distance = THREADS / 2;",
            "int distance = THREADS;",
        ),
        Mutant::new("exchange-ends-at-2", "neighbouring lanes never meet", NORM_LANES)
            .edit(FILE, "distance > 0; distance /= 2", "distance > 1; distance /= 2")
            .fast(),
        Mutant::new("exchange-downwards", "lanes take values from below only, so that lane 0 alone has all", SOFTMAX_LANES)
            .edit(FILE, "__shfl_xor_sync(0xffffffff, value, distance)", "__shfl_down_sync(0xffffffff, value, distance)"),
        Mutant::new("barrier-of-lane-0", "only lane 0 of each warp arrives at the barrier", SOFTMAX_BLOCK)
            .edit(FILE, "__syncthreads();", "if (lane == 0) __syncthreads();")
            .hazard(&[BARRIER]),
        Mutant::new(
            "exchange-among-active-lanes",
            "lanes exchange with those that happen to be there, after a branch that may have parted them",
            SOFTMAX_LANES,
        )
        .edit(FILE, "__shfl_xor_sync(0xffffffff, value, distance)", "__shfl_xor_sync(__activemask(), value, distance)")
        .hazard(&[PARTICIPANTS, INVALID])
        .fast(),
        Mutant::new("exchange-without-upper-half", "the upper half of a row's lanes leaves before the exchange", SOFTMAX_LANES)
            .edit(
                "softmax_forward.cu",
                "const Layout layout(y, type, place.columns);",
                "const Layout layout(y, type, place.columns); if (threadIdx.x % 8 >= 4) return;",
            )
            .hazard(&[PARTICIPANTS, INVALID]),
        Mutant::new("exchange-of-half-a-warp", "a branch lets half of the lanes exchange before the others", NORM_LANES)
            .edit(
                FILE,
                exchange,
                "if (threadIdx.x % 32 < 16) value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance)); else value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance));",
            )
            .hazard(&[PARTICIPANTS]),
        Mutant::new("barrier-of-too-many", "the barrier waits for a warp that does not exist", SOFTMAX_BLOCK)
            .edit(FILE, "__syncthreads();", "asm volatile(\"bar.sync 1, %0;\" :: \"r\"(blockDim.x + 32) : \"memory\");")
            .hazard(&[DEADLOCK]),
        Mutant::new("barrier-of-too-few", "the barrier opens when half of the warps are there", NORM_BLOCK)
            .edit(FILE, "__syncthreads();", "asm volatile(\"bar.sync 1, %0;\" :: \"r\"(blockDim.x / 64 * 32) : \"memory\");")
            .hazard(&[UNWRITTEN, RACE]),
    ]
}
