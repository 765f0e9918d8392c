//! kernels/lib/hopper/wgmma.cuh.

use super::{HOPPER, HOPPER_D64, PRODUCT, RACE, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "lib/hopper/wgmma.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("descriptor-stride-halved", "groups of 8 rows are taken to be 512 bytes apart", HOPPER).edit(
            FILE,
            "static_cast<uint64_t>(1024 >> 4 | 1u << 30)",
            "static_cast<uint64_t>(512 >> 4 | 1u << 30)",
        ),
        Mutant::new("descriptor-without-swizzle", "operands are taken to lie in order", HOPPER)
            .edit(FILE, "static_cast<uint64_t>(1024 >> 4 | 1u << 30)", "static_cast<uint64_t>(1024 >> 4)")
            .hazard(&[super::ASYNC, RACE, UNWRITTEN])
            .fast(),
        Mutant::new("descriptor-of-64-byte-swizzle", "operands are taken to be swizzled in spans of 64 bytes", HOPPER)
            .edit(FILE, "static_cast<uint64_t>(1024 >> 4 | 1u << 30)", "static_cast<uint64_t>(1024 >> 4 | 2u << 30)")
            .hazard(&[super::ASYNC, RACE, UNWRITTEN]),
        Mutant::new("depth-step-of-8-columns", "a step along the depth goes on by 16 bytes", HOPPER).edit(
            FILE,
            "PANEL_BYTES + step % 4 * 32) >> 4",
            "PANEL_BYTES + step % 4 * 16) >> 4",
        ),
        Mutant::new("depth-panel-stays", "steps past the first panel start over in it", HOPPER).edit(
            FILE,
            "(((step / 4) * PANEL_BYTES",
            "(((step / 64) * PANEL_BYTES",
        ),
        Mutant::new("width-step-of-8-rows", "a step along the depth goes on by 8 rows", HOPPER_D64).edit(
            FILE,
            "step * 2048 >> 4",
            "step * 1024 >> 4",
        ),
        Mutant::new("width-panels-in-one", "all panels of V are taken to be the first", HOPPER).edit(
            FILE,
            "static_cast<uint32_t>(PANEL_BYTES >> 4) << 16",
            "static_cast<uint32_t>(0) << 16",
        ),
        Mutant::new("v-depth-major", "V is taken to lie as K does", HOPPER_D64)
            .edit(FILE, "static constexpr int TRANSPOSED = 1;", "static constexpr int TRANSPOSED = 0;")
            .hazard(&[super::ASYNC, RACE, UNWRITTEN]),
        Mutant::new("k-width-major", "K is taken to lie as V does", HOPPER_D64).edit(
            FILE,
            "static constexpr int TRANSPOSED = 0;",
            "static constexpr int TRANSPOSED = 1;",
        ),
        Mutant::new("panel-not-swizzled", "the output is staged in order, and stored as if it was swizzled", HOPPER)
            .edit(FILE, "((chunk % 8 ^ (row & 7)) << 4)", "(chunk % 8 << 4)"),
        Mutant::new("product-of-the-first-step", "every step multiplies the first part of the weights", HOPPER_D64)
            .edit(
                FILE,
                "multiply<1, OperandB::TRANSPOSED>(acc, p.frag[step], b.step(step));",
                "multiply<1, OperandB::TRANSPOSED>(acc, p.frag[0], b.step(step));",
            ),
        Mutant::new("product-accumulates-nothing", "each step of Q K^T replaces the ones before", HOPPER).edit(
            FILE,
            "multiply<1, OperandA::TRANSPOSED, OperandB::TRANSPOSED>(acc, a.step(step),",
            "multiply<0, OperandA::TRANSPOSED, OperandB::TRANSPOSED>(acc, a.step(step),",
        ),
        Mutant::new(
            "wgmma-fence-missing",
            "no fence between what touched the registers of a product and the product",
            HOPPER,
        )
        .edit("lib/hopper/ptx.cuh", "asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\");", "")
        .hazard(&[PRODUCT]),
        Mutant::new("wgmma-commit-missing", "products belong to no group, so that no wait covers them", HOPPER)
            .edit("lib/hopper/ptx.cuh", "asm volatile(\"wgmma.commit_group.sync.aligned;\" ::: \"memory\");", "")
            .hazard(super::REGISTERS),
        Mutant::new("wgmma-waits-one-group-late", "a wait for products leaves one group more in flight", HOPPER)
            .edit(
                "lib/hopper/ptx.cuh",
                "asm volatile(\"wgmma.wait_group.sync.aligned %0;\" ::\"n\"(PENDING) : \"memory\");",
                "asm volatile(\"wgmma.wait_group.sync.aligned %0;\" ::\"n\"(PENDING + 1) : \"memory\");",
            )
            .hazard(super::REGISTERS),
        Mutant::new(
            "proxy-fence-missing",
            "what ordinary stores wrote is read by the copy engine without a fence",
            HOPPER,
        )
        .edit("lib/hopper/ptx.cuh", "asm volatile(\"fence.proxy.async.shared::cta;\" ::: \"memory\");", "")
        .hazard(&[super::PROXY]),
        Mutant::new("mbarrier-init-unfenced", "the copy engine may not see that mbarriers are initialised", HOPPER)
            .edit("lib/hopper/ptx.cuh", "asm volatile(\"fence.mbarrier_init.release.cluster;\" ::: \"memory\");", "")
            .hazard(&[super::MBARRIER]),
        Mutant::new(
            "bulk-commit-missing",
            "stores of the copy engine belong to no group, so that no wait covers them",
            HOPPER,
        )
        .edit("lib/hopper/ptx.cuh", "asm volatile(\"cp.async.bulk.commit_group;\" ::: \"memory\");", "")
        .hazard(&[super::UNFINISHED, super::ASYNC, RACE]),
        Mutant::new("bulk-wait-missing", "nobody waits until the copy engine has read the output's tile", HOPPER)
            .edit(
                "lib/hopper/ptx.cuh",
                "asm volatile(\"cp.async.bulk.wait_group.read %0;\" ::\"n\"(PENDING) : \"memory\");",
                "",
            )
            .hazard(&[super::UNFINISHED, super::ASYNC]),
        Mutant::new("stmatrix-transposed", "the output is staged with rows and columns exchanged", HOPPER).edit(
            "lib/hopper/ptx.cuh",
            "asm volatile(\"stmatrix.sync.aligned.m8n8.x4.shared.b16",
            "asm volatile(\"stmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
        ),
        Mutant::new("box-column-and-row-exchanged", "K's boxes start at the row that their column should be", HOPPER)
            .edit("lib/hopper/ptx.cuh", "[%0], [%1, {%3, %4, %5, %6}], [%2];", "[%0], [%1, {%4, %3, %5, %6}], [%2];"),
    ]
}
