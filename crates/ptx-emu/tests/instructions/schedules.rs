//! Schedules that starve some warps, and grids that do not fit on the device.

use crate::hopper::*;

/// One warp waits in a loop for what another one writes.
fn spin(writer: u32) -> Bed {
    let mut test = bed(format!(
        "@%p0 st.shared.u32 [%r1], 0; bar.sync 0; shr.u32 %r10, %r0, 5; setp.eq.u32 %p1, %r10, {writer};\n\
         setp.eq.u32 %p2, %r0, {}; @%p1 bra WRITE;\n\
         {{ SPIN: ld.acquire.cta.shared.u32 %r11, [%r1]; setp.eq.u32 %p3, %r11, 0; @%p3 bra SPIN; }}\nbra OUT;\n\
         WRITE: mov.u32 %r11, 8; @%p2 st.release.cta.shared.u32 [%r1], 8;\nOUT:\n{}",
        32 * writer,
        put("%r11"),
    ));
    test.threads = 128;
    test
}

#[test]
fn a_starved_warp_that_others_wait_for_has_its_turn() {
    for writer in [0, 3] {
        assert_eq!(to_words(&spin(writer).every())[..128], [8; 128]);
    }
    // The same through a test of an mbarrier that the lowest warp loads.
    let body = init(0, 1)
        + &expect(0, 256)
        + &load(256)
        + "{ WAIT: mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra WAIT; }\n\
           ld.shared.u32 %r10, [%r1];\n"
        + &put("%r10");
    let mut test = bed(body);
    test.threads = 256;
    assert_eq!(to_words(&test.every())[..256], vec![to_words(&test.input)[0]; 256]);
}

/// All blocks meet at a counter in global memory.
fn grid_barrier(blocks: u32, resident: usize) -> Bed {
    let mut test = bed(format!(
        "@%p0 atom.acq_rel.gpu.global.add.u32 %r10, [%d1], 1;\n\
         {{ SPIN: ld.acquire.gpu.global.u32 %r11, [%d1]; setp.lt.u32 %p1, %r11, {blocks}; @%p1 bra SPIN; }}\n"
    ));
    test.grid = [blocks, 1, 1];
    test.output = vec![0; 4];
    test.resident = resident;
    (test.threads, test.limit) = (32, 500_000);
    test
}

#[test]
fn blocks_that_wait_for_blocks_must_all_be_there() {
    assert_eq!(to_words(&grid_barrier(3, 3).output()), [3]);
    grid_barrier(3, 2).faulty_late("starvation", "while 1 blocks have no place on the device, which holds 2");
    let mut clusters = grid_barrier(4, 4);
    clusters.cluster = [2, 1, 1];
    assert_eq!(to_words(&clusters.output()), [4]);
    clusters.resident = 3;
    clusters.faulty_late("starvation", "while 2 blocks have no place on the device, which holds 3");
    // Who only counts needs no company.
    let mut alone = grid_barrier(4, 1);
    alone.body = "@%p0 atom.acq_rel.gpu.global.add.u32 %r10, [%d1], 1;\n".to_owned();
    assert_eq!(to_words(&alone.every()), [4]);
}

#[test]
fn nothing_but_the_limit_ends_a_loop_of_its_own() {
    let test = bed("LOOP: bra LOOP;\n");
    let (outcome, _) = test.try_run(SCHEDULES[0], COMPLETIONS[0]);
    assert!(outcome.unwrap_err().to_string().contains("warp instructions of a block"));
}
