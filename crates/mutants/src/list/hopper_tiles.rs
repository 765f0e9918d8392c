//! kernels/lib/hopper/tiles.cuh and plan.cuh.

use super::{
    ASYNC, BOUNDS, COUNT, DEADLOCK, GLOBAL_RACE, HOPPER, HOPPER_D64, HOPPER_KEY_VALUE, MBARRIER, PROXY, RACE,
    UNFINISHED, UNWRITTEN,
};
use crate::mutant::Mutant;

const FILE: &str = "lib/hopper/tiles.cuh";
const PLAN: &str = "lib/hopper/plan.cuh";

pub fn mutants() -> Vec<Mutant> {
    [tiles(), plans()].concat()
}

fn tiles() -> Vec<Mutant> {
    vec![
        Mutant::new("one-panel-short", "the last panel of a tile is not copied", HOPPER)
            .edit(FILE, "  for (int panel = 0; panel < Tile::COUNT; ++panel) {\n    ptx::load_box", "  for (int panel = 0; panel < Tile::COUNT - 1; ++panel) {\n    ptx::load_box")
            .hazard(&[DEADLOCK]),
        Mutant::new("panels-in-one-place", "all panels of a tile are copied to the place of the first", HOPPER)
            .edit(FILE, "ptx::load_box(ptx::shared_address(tile_smem) + panel * Tile::PANEL_BYTES,", "ptx::load_box(ptx::shared_address(tile_smem),")
            .hazard(&[ASYNC, UNWRITTEN]),
        Mutant::new("panels-of-the-first-columns", "all panels of a tile hold the first 64 columns", HOPPER)
            .edit(FILE, "map, barrier, 64 * panel, row, head, batch);", "map, barrier, 0, row, head, batch);"),
        Mutant::new("warpgroups-share-a-barrier", "all warpgroups use the barrier of the first", HOPPER)
            .edit(FILE, "ptx::barrier_sync(threadIdx.x / 128, 128); }", "ptx::barrier_sync(1, 128); }")
            .hazard(&[RACE, ASYNC, PROXY, COUNT]),
        Mutant::new("staged-under-its-copy", "the next result is staged while the copy engine reads the last", HOPPER_D64)
            .edit(FILE, "  if (leads_warpgroup) ptx::bulk_wait_read<0>();\n  warpgroup_sync();\n", "\n  warpgroup_sync();\n")
            .hazard(&[ASYNC, RACE]),
        Mutant::new("staged-unannounced", "warps do not wait for the lane that waits for the copy engine", HOPPER_D64)
            .edit(FILE, "  if (leads_warpgroup) ptx::bulk_wait_read<0>();\n  warpgroup_sync();\n", "\n  if (leads_warpgroup) ptx::bulk_wait_read<0>();\n")
            .hazard(&[ASYNC, RACE]),
        Mutant::new("stored-without-proxy-fence", "the copy engine may not see what was staged", HOPPER_D64)
            .edit(FILE, "  // The copy engine reads these rows, or fills them again.\n  ptx::fence_async_proxy();\n", "\n\n")
            .hazard(&[PROXY])
            .fast(),
        Mutant::new("stored-without-barrier", "the copy engine reads what other warps have not staged", HOPPER_D64)
            .edit(FILE, "  if (first_row + 64 <= num_rows) {\n    warpgroup_sync();\n", "\n  if (first_row + 64 <= num_rows) {\n")
            .hazard(&[RACE, PROXY, UNWRITTEN, ASYNC]),
        Mutant::new("stored-behind-the-leader's-fence", "only the lane that stores fences, and so not what the others wrote", HOPPER_D64)
            .edit(FILE, "  // The copy engine reads these rows, or fills them again.\n  ptx::fence_async_proxy();\n", "\n  if (leads_warpgroup) ptx::fence_async_proxy();\n")
            .hazard(&[PROXY]),
        Mutant::new("stored-by-every-lane", "every lane of a warpgroup stores its box", HOPPER_D64)
            .edit(FILE, "    if (leads_warpgroup) {", "    if (true) {")
            .hazard(&[GLOBAL_RACE, UNFINISHED, ASYNC]),
        Mutant::new("box-of-ragged-rows", "a box reaches into the rows of the next sequence", HOPPER_D64)
            .edit(FILE, "  if (first_row + 64 <= num_rows) {", "  if (first_row < num_rows) {")
            .hazard(&[GLOBAL_RACE, ASYNC]),
        Mutant::new("box-of-the-first-warpgroup", "all warpgroups store the first 64 rows of the tile", HOPPER_D64)
            .edit(FILE, "panel * Tile::PANEL_BYTES + first_row * 128);", "panel * Tile::PANEL_BYTES);")
            .hazard(&[RACE, PROXY, UNWRITTEN, ASYNC]),
        Mutant::new("ragged-row-more", "one row too many is stored where rows are stored one by one", HOPPER_D64)
            .edit(FILE, "if (row >= num_rows || chunk * 8", "if (row > num_rows || chunk * 8")
            .hazard(&[GLOBAL_RACE, BOUNDS, ASYNC]),
        Mutant::new("ragged-columns-of-the-tile", "columns beyond a smaller head_dim are stored", HOPPER)
            .edit(FILE, " || chunk * 8 >= columns) continue;", ") continue;")
            .hazard(&[GLOBAL_RACE, BOUNDS]),
        Mutant::new("rows-cleared-without-fence", "the tensor cores may not see that foreign queries were cleared", HOPPER_KEY_VALUE)
            .edit(FILE, "      *reinterpret_cast<uint4*>(tile_smem + panel * Tile::PANEL_BYTES + index * 16) = make_uint4(0, 0, 0, 0);\n    }\n  }\n  ptx::fence_async_proxy();", "\n      *reinterpret_cast<uint4*>(tile_smem + panel * Tile::PANEL_BYTES + index * 16) = make_uint4(0, 0, 0, 0);\n    }\n  }")
            .hazard(&[PROXY]),
    ]
}

fn plans() -> Vec<Mutant> {
    vec![
        Mutant::new("plan-done-twice", "two blocks do the same work, and other work is left", HOPPER)
            .edit(PLAN, "(round % 2 == 0 ? block : num_blocks - 1 - block)", "(round % 2 == 0 ? block : 0)")
            .hazard(&[GLOBAL_RACE, ASYNC, DEADLOCK]),
        Mutant::new("plan-in-one-order", "who has the longest share of one round has that of the next", HOPPER)
            .edit(PLAN, "(round % 2 == 0 ? block : num_blocks - 1 - block)", "(round % 2 == 0 ? block : block)")
            .equivalent("every block of work is still done once; only how evenly they are shared changes"),
        Mutant::new("plan-read-at-once", "a plan is read before it is written", HOPPER)
            .edit(PLAN, "    side.wait();\n    const Block& block", "\n    const Block& block")
            .hazard(&[RACE, UNWRITTEN])
            .fast(),
        Mutant::new("plan-written-at-once", "a plan is overwritten while it is read", HOPPER).edit(
            PLAN,
            "    side.start_storing();\n    plan(",
            "\n    plan(",
        ),
        Mutant::new("plan-released-by-a-lane", "a plan is released while other lanes read it", HOPPER)
            .edit(
                PLAN,
                "    __syncwarp();\n    side_in_round(plans.ring, round).release();",
                "\n    side_in_round(plans.ring, round).release();",
            )
            .hazard(&[RACE]),
        Mutant::new("plan-phase-of-every-round", "the phase of a ring changes with every round", HOPPER)
            .edit(PLAN, "side.phase = round / BUFFERS % 2;", "side.phase = round % 2;")
            .hazard(&[RACE, DEADLOCK, UNWRITTEN, MBARRIER, ASYNC]),
        Mutant::new("plan-of-few-readers", "a plan counts as read before the filling warp has read it", HOPPER)
            .edit(
                "attention_forward_sm90.cu",
                "shared.plans.ring.init(4 * CONSUMERS + 1);",
                "shared.plans.ring.init(4 * CONSUMERS);",
            )
            .hazard(&[RACE, MBARRIER]),
    ]
}
