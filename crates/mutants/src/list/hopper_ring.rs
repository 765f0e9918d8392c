//! kernels/lib/hopper/ring.cuh.

use super::{ASYNC, DEADLOCK, HOPPER, MBARRIER, PARTICIPANTS, POOL, RACE, UNFINISHED, UNWRITTEN, WARPGROUP};
use crate::mutant::Mutant;

const FILE: &str = "lib/hopper/ring.cuh";

pub fn mutants() -> Vec<Mutant> {
    [phases(), counts(), registers()].concat()
}

fn phases() -> Vec<Mutant> {
    vec![
        Mutant::new("ring-fills-at-once", "a buffer is filled before its readers have released it", HOPPER)
            .edit(
                FILE,
                "    ptx::mbarrier_wait(empty(), phase ^ 1);\n    ptx::mbarrier_arrive_expect",
                "\n    ptx::mbarrier_arrive_expect",
            )
            .hazard(&[ASYNC, RACE, MBARRIER])
            .fast(),
        Mutant::new(
            "ring-waits-for-the-first-release",
            "the filling side waits for a release before its first fill",
            HOPPER,
        )
        .edit(
            FILE,
            "    ptx::mbarrier_wait(empty(), phase ^ 1);\n    ptx::mbarrier_arrive_expect",
            "    ptx::mbarrier_wait(empty(), phase);\n    ptx::mbarrier_arrive_expect",
        )
        .hazard(&[DEADLOCK]),
        Mutant::new("ring-reads-at-once", "a buffer is read before it is full", HOPPER)
            .edit(FILE, "void wait() const { ptx::mbarrier_wait(full(), phase); }", "void wait() const {}")
            .hazard(&[ASYNC, RACE, UNWRITTEN])
            .fast(),
        Mutant::new(
            "ring-reads-a-phase-early",
            "a reader waits for the phase before the one that fills its buffer",
            HOPPER,
        )
        .edit(FILE, "ptx::mbarrier_wait(full(), phase); }", "ptx::mbarrier_wait(full(), phase ^ 1); }")
        .hazard(&[ASYNC, RACE, UNWRITTEN]),
        Mutant::new("ring-phase-stays", "the phase does not change when the ring starts over", HOPPER)
            .edit(FILE, "      phase ^= 1;", "      phase ^= 0;")
            .hazard(&[ASYNC, DEADLOCK, RACE, MBARRIER])
            .fast(),
        Mutant::new("ring-phase-of-every-buffer", "the phase changes with every buffer", HOPPER)
            .edit(FILE, "    if (++stage == STAGES) {", "    phase ^= 1; if (++stage == STAGES) {")
            .hazard(&[ASYNC, DEADLOCK, RACE, MBARRIER]),
        Mutant::new("ring-readers-wait-for-empty", "a reader waits for the release of its own buffer", HOPPER)
            .edit(FILE, "ptx::mbarrier_wait(full(), phase); }", "ptx::mbarrier_wait(empty(), phase); }")
            .hazard(&[DEADLOCK]),
    ]
}

fn counts() -> Vec<Mutant> {
    vec![
        Mutant::new("ring-expects-nothing", "a phase is complete before its bytes are there", HOPPER)
            .edit(FILE, "ptx::mbarrier_arrive_expect(full(), bytes);", "ptx::mbarrier_arrive(full());")
            .hazard(&[ASYNC, RACE, MBARRIER])
            .fast(),
        Mutant::new("ring-expects-too-little", "one swizzle period of a buffer is not waited for", HOPPER)
            .edit(
                FILE,
                "ptx::mbarrier_arrive_expect(full(), bytes);",
                "ptx::mbarrier_arrive_expect(full(), bytes - 1024);",
            )
            .hazard(&[ASYNC, DEADLOCK, MBARRIER]),
        Mutant::new("ring-expects-too-much", "more bytes are waited for than come", HOPPER)
            .edit(
                FILE,
                "ptx::mbarrier_arrive_expect(full(), bytes);",
                "ptx::mbarrier_arrive_expect(full(), bytes + 16);",
            )
            .hazard(&[DEADLOCK]),
        Mutant::new("ring-two-fill", "a buffer counts as full after two arrivals, of which one comes", HOPPER)
            .edit(
                FILE,
                "ptx::mbarrier_init(ptx::shared_address(&full[stage]), 1 + storing_warps);",
                "ptx::mbarrier_init(ptx::shared_address(&full[stage]), 2 + storing_warps);",
            )
            .hazard(&[DEADLOCK]),
        Mutant::new("ring-a-reader-less", "a buffer counts as empty while a warp still reads it", HOPPER)
            .edit(
                FILE,
                "ptx::mbarrier_init(ptx::shared_address(&empty[stage]), reading_warps);",
                "ptx::mbarrier_init(ptx::shared_address(&empty[stage]), reading_warps - 1);",
            )
            .hazard(&[ASYNC, RACE, MBARRIER]),
        Mutant::new("ring-a-reader-more", "a buffer never counts as empty", HOPPER)
            .edit(
                FILE,
                "ptx::mbarrier_init(ptx::shared_address(&empty[stage]), reading_warps);",
                "ptx::mbarrier_init(ptx::shared_address(&empty[stage]), reading_warps + 1);",
            )
            .hazard(&[DEADLOCK]),
        Mutant::new("ring-first-buffer-only", "only the first buffer's mbarriers are initialised", HOPPER)
            .edit(FILE, "for (int stage = 0; stage < STAGES; ++stage) {", "for (int stage = 0; stage < 1; ++stage) {")
            .hazard(&[MBARRIER, UNWRITTEN]),
        Mutant::new("ring-releases-the-filled", "a reader arrives where buffers are announced as full", HOPPER)
            .edit(FILE, "ptx::mbarrier_arrive(empty());", "ptx::mbarrier_arrive(full());")
            .hazard(&[MBARRIER, DEADLOCK, ASYNC]),
        Mutant::new("ring-never-released", "no reader releases a buffer", HOPPER)
            .edit(FILE, "ptx::mbarrier_arrive(empty());", ";")
            .hazard(&[DEADLOCK]),
        Mutant::new("ring-of-one-buffer", "all buffers share the mbarriers of the first", HOPPER)
            .edit(FILE, "full() const { return address + 8 * stage; }", "full() const { return address; }")
            .hazard(&[ASYNC, DEADLOCK, MBARRIER, RACE]),
        Mutant::new("ring-is-longer", "a side walks one buffer too far before it starts over", HOPPER)
            .edit(FILE, "    if (++stage == STAGES) {", "    if (++stage == STAGES + 1) {")
            .hazard(&[MBARRIER, DEADLOCK, ASYNC, RACE, UNWRITTEN, UNFINISHED]),
    ]
}

fn registers() -> Vec<Mutant> {
    vec![
        Mutant::new("registers-too-many", "the warpgroups ask for more registers together than the block has", HOPPER)
            .edit(FILE, "FILL = 24, CONSUME = 240;", "FILL = 40, CONSUME = 240;")
            .edit(FILE, "static_assert(Registers<2>::FILL", "static_assert(true || Registers<2>::FILL")
            .hazard(&[POOL])
            .fast(),
        Mutant::new(
            "registers-not-given",
            "the filling warpgroup keeps the registers that the others wait for",
            HOPPER,
        )
        .edit("attention_forward_sm90.cu", "ptx::give_registers<Registers<CONSUMERS>::FILL>();", "")
        .hazard(&[POOL]),
        Mutant::new("registers-given-by-one-warp", "one warp of the filling warpgroup gives up its registers", HOPPER)
            .edit(
                "attention_forward_sm90.cu",
                "ptx::give_registers<Registers<CONSUMERS>::FILL>();",
                "if (threadIdx.x < 32) ptx::give_registers<Registers<CONSUMERS>::FILL>();",
            )
            .hazard(&[WARPGROUP, POOL, PARTICIPANTS]),
    ]
}
