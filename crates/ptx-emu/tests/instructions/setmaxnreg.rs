//! `setmaxnreg`: registers that warpgroups hand to each other.

use crate::hopper::*;

/// Two warpgroups; the first takes registers that the second gives up.
fn shared_out(registers: u32, increase: u32, decrease: u32) -> Bed {
    let mut test = bed(format!(
        "setp.lt.u32 %p1, %r0, 128; @%p1 bra FIRST;\n\
         setmaxnreg.dec.sync.aligned.u32 {decrease};\nbra OUT;\n\
         FIRST: setmaxnreg.inc.sync.aligned.u32 {increase};\nOUT:\n"
    ));
    (test.threads, test.registers) = (256, registers);
    test
}

#[test]
fn pools_must_add_up() {
    shared_out(128, 232, 24).every();
    shared_out(128, 240, 24).faulty("register pool", "the warps ask for 33792 registers together, the block has 32768");
    // Without a count only the register file bounds them.
    shared_out(0, 240, 24).every();
    let mut many = shared_out(0, 240, 24);
    many.threads = 1024;
    many.body = "setmaxnreg.inc.sync.aligned.u32 72;\n".to_owned();
    many.faulty("register pool", "the block has 65536");
    // A warpgroup that sets nothing, and has exited, keeps what it had.
    let mut idle = shared_out(128, 136, 24);
    idle.body = "setp.lt.u32 %p1, %r0, 128; @!%p1 bra OUT;\nsetmaxnreg.inc.sync.aligned.u32 136;\nOUT:\n".to_owned();
    idle.faulty("register pool", "");
}

#[test]
fn increases_increase_and_decreases_decrease() {
    shared_out(128, 120, 24).faulty("register count", "120 registers per thread where the warp has 128");
    shared_out(128, 128, 136).faulty("register count", "136 registers per thread where the warp has 128");
    let mut twice = bed("setmaxnreg.dec.sync.aligned.u32 64;\nsetmaxnreg.inc.sync.aligned.u32 56;\n");
    (twice.threads, twice.registers) = (128, 96);
    twice.faulty("register count", "56 registers per thread where the warp has 64");
    twice.body = "setmaxnreg.dec.sync.aligned.u32 64;\nsetmaxnreg.inc.sync.aligned.u32 96;\n".to_owned();
    twice.every();
}

#[test]
fn warps_of_a_warpgroup_do_the_same() {
    let mut test = bed("setp.lt.u32 %p1, %r0, 32; @%p1 bra FIRST;\nsetmaxnreg.dec.sync.aligned.u32 40;\nbra OUT;\n\
         FIRST: setmaxnreg.dec.sync.aligned.u32 48;\nOUT:\n");
    (test.threads, test.registers) = (128, 96);
    test.faulty("warpgroup mismatch", "");
    // One warp does nothing.
    test.body = "setp.lt.u32 %p1, %r0, 32; @%p1 bra OUT;\nsetmaxnreg.dec.sync.aligned.u32 40;\nOUT:\n".to_owned();
    test.faulty("warpgroup mismatch", "");
    // Half a warpgroup.
    test.threads = 64;
    test.body = "setmaxnreg.dec.sync.aligned.u32 40;\n".to_owned();
    test.faulty("warpgroup mismatch", "do not make up its warpgroup");
}

/// A wait under a condition that only some warps find true, as compute-sanitizer's synccheck reports it on a GPU.
#[test]
fn warps_of_a_warpgroup_fence_commit_and_wait_alike() {
    for instruction in ["fence.sync.aligned", "commit_group.sync.aligned", "wait_group.sync.aligned 0"] {
        let mut test = bed(format!("setp.lt.u32 %p1, %r0, 96; @!%p1 bra OUT;\nwgmma.{instruction};\nOUT:\n"));
        test.threads = 128;
        test.faulty("warpgroup mismatch", "warp 3 did not");
        test.body = format!("wgmma.{instruction};\n");
        test.every();
    }
}

#[test]
fn counts_that_do_not_exist() {
    for count in [16, 23, 100, 264] {
        let test = bed(format!("setmaxnreg.dec.sync.aligned.u32 {count};\n"));
        let (outcome, _) = test.try_run(SCHEDULES[0], COMPLETIONS[0]);
        assert!(outcome.unwrap_err().to_string().contains("multiple of 8 from 24 to 256"), "{count}");
    }
}
