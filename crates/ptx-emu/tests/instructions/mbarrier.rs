//! mbarriers: counts, bytes, phases, and each way to use one wrongly.

use crate::hopper::*;

#[test]
fn arrivals_of_all_threads_complete_a_phase() {
    // Everybody writes, arrives and waits; then everybody reads what another warp wrote. Three phases, so both parities.
    let mut body = init(0, 64)
        + "shl.b32 %r10, %r0, 2; add.u32 %r10, %r1, %r10; xor.b32 %r11, %r10, 128;\n\
        mov.u32 %r13, 0;\n";
    for phase in 0..3 {
        body += &format!(
            "mad.lo.u32 %r12, %r0, {}, 1; st.shared.u32 [%r10], %r12;\n\
             mbarrier.arrive.release.cta.shared::cta.b64 %d10, [%r2]; {}\
             ld.shared.u32 %r12, [%r11]; add.u32 %r13, %r13, %r12;\n\
             mbarrier.arrive.shared::cta.b64 %d10, [%r2+8]; {}",
            phase + 1,
            wait(0, phase & 1),
            wait(8, phase & 1),
        );
    }
    let body = init(8, 64) + &body + &put("%r13");
    let expected: Vec<u32> = (0..64u32).map(|thread| (1..4).map(|k| (thread ^ 32) * k + 1).sum()).collect();
    assert_eq!(to_words(&bed(body).every())[..64], expected);
}

#[test]
fn counted_arrivals_and_states() {
    // Thread 0 arrives with 3, then with 2 of 5; the states of both arrivals are of the phase that is over then.
    let body = init(0, 5)
        + "mov.u32 %r10, 0; @!%p0 bra END;\n\
           mbarrier.arrive.shared::cta.b64 %d10, [%r2], 3;\n\
           mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %d10; selp.u32 %r10, 1, 0, %p1;\n\
           mbarrier.arrive.noComplete.shared::cta.b64 %d11, [%r2], 1;\n\
           mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @%p1 or.b32 %r10, %r10, 2;\n\
           mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 1; @%p1 or.b32 %r10, %r10, 4;\n\
           mbarrier.arrive.shared::cta.b64 %d11, [%r2];\n\
           mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %d10; @%p1 or.b32 %r10, %r10, 8;\n\
           mbarrier.try_wait.shared::cta.b64 %p1, [%r2], %d11; @%p1 or.b32 %r10, %r10, 16;\n\
           mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @%p1 or.b32 %r10, %r10, 32;\n\
           mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 1; @%p1 or.b32 %r10, %r10, 64;\n\
           mbarrier.arrive.shared::cta.b64 %d12, [%r2], 5;\n\
           mbarrier.try_wait.shared::cta.b64 %p1, [%r2], %d12, 1000; @%p1 or.b32 %r10, %r10, 128;\n\
           END:\n"
        + &put("%r10");
    // Before the end of phase 0 parity 1 is that of the phase before: true. Behind it parity 0 is, and parity 1 is not.
    assert_eq!(to_words(&bed(body).every())[0], 4 + 8 + 16 + 32 + 128);
}

#[test]
fn generic_addresses() {
    let body = init(0, 1)
        + "cvt.u64.u32 %d10, %r2; cvta.shared.u64 %d10, %d10; @%p0 mbarrier.arrive.b64 %d11, [%d10];\n\
           { WAIT: mbarrier.try_wait.parity.b64 %p1, [%d10], 0; @!%p1 bra WAIT; }\nmov.u32 %r10, 7;\n"
        + &put("%r10");
    assert_eq!(to_words(&bed(body).every())[0], 7);
}

#[test]
fn bytes_complete_a_phase() {
    // Expected apart from the arrival, and completed by the kernel itself in two parts, one of them too early.
    let body = init(0, 2)
        + "mov.u32 %r10, 0; @!%p0 bra END;\n\
           mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r2], 16;\n\
           mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 48;\n\
           mbarrier.arrive.expect_tx.shared::cta.b64 %d10, [%r2], 16; mbarrier.arrive.shared::cta.b64 %d11, [%r2];\n\
           mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %d10; selp.u32 %r10, 1, 0, %p1;\n\
           mbarrier.complete_tx.shared::cta.b64 [%r2], 32;\n\
           mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %d10; @%p1 or.b32 %r10, %r10, 2;\n\
           mbarrier.complete_tx.shared::cta.b64 [%r2], 16;\n\
           mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %d10; @%p1 or.b32 %r10, %r10, 4;\n\
           END:\n"
        + &put("%r10");
    assert_eq!(to_words(&bed(body).every())[0], 4);
}

#[test]
fn a_dropped_arrival_counts_once() {
    // Two of three arrive in each phase after one has left.
    let body = init(0, 3)
        + "setp.eq.u32 %p1, %r0, 2; @%p1 mbarrier.arrive_drop.shared::cta.b64 %d10, [%r2];\n\
           setp.lt.u32 %p2, %r0, 2; @%p2 mbarrier.arrive.shared::cta.b64 %d10, [%r2];\n"
        + &wait(0, 0)
        + "bar.sync 0; @%p2 mbarrier.arrive.shared::cta.b64 %d10, [%r2];\n"
        + &wait(0, 1)
        + "mov.u32 %r10, 3;\n"
        + &put("%r10");
    assert_eq!(to_words(&bed(body).every())[63], 3);
}

#[test]
fn an_mbarrier_may_be_made_again_after_its_end() {
    let once = |parity: u32| init(0, 1) + &expect(0, 128) + &load(128) + &wait(0, parity);
    let again = once(0) + BAR + "@%p0 mbarrier.inval.shared::cta.b64 [%r2];\n" + &once(0) + &dump(128);
    let test = bed(again);
    assert_eq!(test.every()[..128], test.input[..128]);
    let wrong = once(0) + BAR + &once(0);
    bed(wrong).faulty("mbarrier", "initialised again");
}

#[test]
fn a_test_in_a_loop_sees_the_copy_some_time() {
    let body = init(0, 1)
        + &expect(0, 256)
        + &load(256)
        + "{ WAIT: mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra WAIT; }\n"
        + &dump(256);
    let test = bed(body);
    assert_eq!(test.every()[..256], test.input[..256]);
}

/// Consumers of a ring of two stages that one warp loads: the classical pipeline.
#[test]
fn a_ring_of_stages() {
    let ring = |empty_arrival: &str, fence: &str| {
        // Mbarriers: full at 0 and 8, empty at 16 and 24; warp 2 loads, warps 0 and 1 add up.
        let mut body = [(0, 1), (8, 1), (16, 2), (24, 2)].map(|(at, count)| init(at, count)).concat();
        body += "shr.u32 %r10, %r0, 5; setp.eq.u32 %p1, %r10, 2; setp.eq.u32 %p2, %r0, 64; and.b32 %r14, %r0, 31;\n\
                 setp.eq.u32 %p3, %r14, 0; mov.u32 %r13, 0; @!%p1 bra CONSUME;\n";
        for step in 0..6u32 {
            let stage = step % 2;
            body += &wait(16 + 8 * stage, (step / 2 + 1) % 2);
            body += &format!(
                "add.u32 %r12, %r1, {}; add.s64 %d10, %d0, {};\n\
                 @%p2 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+{full}], 256;\n\
                 @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r12], [%d10], 256, [%r2+{full}];\n",
                stage * 256,
                step * 256,
                full = 8 * stage,
            );
        }
        body += "bra OUT;\nCONSUME: shl.b32 %r11, %r0, 2; add.u32 %r11, %r11, %r1;\n";
        for step in 0..6u32 {
            let stage = step % 2;
            body += &wait(8 * stage, step / 2 % 2);
            body += &format!("ld.shared.u32 %r12, [%r11+{}]; add.u32 %r13, %r13, %r12;\n{fence}", stage * 256);
            body += &empty_arrival.replace("EMPTY", &format!("%r2+{}", 16 + 8 * stage));
        }
        bed(body + "OUT:\n" + &put("%r13"))
    };
    let mut test = ring("bar.warp.sync -1; @%p3 mbarrier.arrive.shared::cta.b64 _, [EMPTY];\n", "");
    test.threads = 96;
    let out = to_words(&test.every());
    let input = to_words(&test.input);
    for thread in 0..64 {
        let sum = (0..6).fold(0u32, |sum, step| sum.wrapping_add(input[64 * step + thread]));
        assert_eq!(out[thread], sum);
    }
    // Lane 0 speaks for lanes that have not met it.
    let mut wrong = ring("@%p3 mbarrier.arrive.shared::cta.b64 _, [EMPTY];\n", "");
    wrong.threads = 96;
    wrong.faulty("shared memory race", "asynchronous copy into it");
    // Strictly, the reads are to be fenced as well.
    test.checks.fences_after_reads = true;
    test.faulty("missing proxy fence", "the read by");
    let mut fenced = ring("bar.warp.sync -1; @%p3 mbarrier.arrive.shared::cta.b64 _, [EMPTY];\n", FENCE);
    (fenced.threads, fenced.checks) = (96, test.checks);
    fenced.every();
}

#[test]
fn early_and_missing() {
    let good = init(0, 1) + &expect(0, 128) + &load(128) + BAR;
    let read = "ld.shared.u32 %r10, [%r1];\n";
    bed(good.clone() + read + &wait(0, 0)).faulty("asynchronous copy in flight", "before a wait covers");
    // The parity of the phase before the first.
    bed(good.clone() + &wait(0, 1) + read + &wait(0, 0))
        .faulty_late("asynchronous copy in flight", "before a wait covers");
    bed(good.clone() + "st.shared.u32 [%r1], %r0;\n" + &wait(0, 0)).faulty("asynchronous copy in flight", "write at");
    // One warp waits, the other reads.
    let one_waits =
        "setp.lt.u32 %p1, %r0, 32; @!%p1 bra READ;\n".to_owned() + &wait(0, 0) + "READ:" + read + &wait(0, 0);
    bed(good.clone() + &one_waits).faulty("asynchronous copy in flight", "before a wait covers");
    bed(good + &wait(0, 0) + read).every();

    bed(init(0, 2) + &expect(0, 128) + &load(128) + &wait(0, 0)).faulty("deadlock", "1 of 2 arrivals");
    bed(init(0, 1) + &expect(0, 256) + &load(128) + &wait(0, 0)).faulty("deadlock", "0 of 1 arrivals and 128 bytes");
    bed(init(0, 1) + &expect(0, 128) + &load(256) + &wait(0, 0)).faulty("deadlock", "0 of 1 arrivals and -128 bytes");
    bed(init(0, 1) + &expect(0, 128) + &wait(0, 0)).faulty("deadlock", "128 bytes");
    bed(init(0, 1) + &wait(0, 0)).faulty("deadlock", "parity 0 of the mbarrier");
    // Nothing is expected: the arrival alone completes the phase before the bytes come.
    let unexpected = init(0, 1) + &load(128) + "@%p0 mbarrier.arrive.shared::cta.b64 _, [%r2];\n" + &wait(0, 0) + read;
    bed(unexpected).faulty_late("asynchronous copy in flight", "before a wait covers");
}

#[test]
fn counts_that_do_not_fit() {
    bed(init(0, 2) + "@%p0 mbarrier.arrive.shared::cta.b64 %d10, [%r2], 3;\n").faulty("mbarrier", "3 arrivals where 2");
    bed(init(0, 1) + "@%p0 mbarrier.arrive.noComplete.shared::cta.b64 %d10, [%r2], 1;\n")
        .faulty("mbarrier", ".noComplete completes");
    bed(init(0, 0)).faulty("mbarrier", "a count of 0");
    bed(init(0, 1 << 20)).faulty("mbarrier", "a count of 1048576");
    bed(init(0, (1 << 20) - 1)).every();
    bed(init(0, 1) + "@%p0 mbarrier.expect_tx.shared::cta.b64 [%r2], 1048576;\n").faulty("mbarrier", "1048576 bytes");
}

#[test]
fn what_is_no_mbarrier() {
    for use_it in [
        "@%p0 mbarrier.arrive.shared::cta.b64 %d10, [%r2];\n",
        "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n",
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n",
        "@%p0 mbarrier.inval.shared::cta.b64 [%r2];\n",
        "@%p0 mbarrier.expect_tx.shared::cta.b64 [%r2], 16;\n",
        &load(128),
    ] {
        bed(use_it).faulty("mbarrier", "it is not initialised");
        bed(init(8, 1) + use_it).faulty("mbarrier", "it is not initialised");
    }
    bed("mbarrier.init.shared::cta.b64 [%r2+4], 1;\n").faulty("misaligned", "not a multiple of 8");
    bed("add.u32 %r10, %r2, 200; mbarrier.init.shared::cta.b64 [%r10], 1;\n").faulty("out of bounds", "shared");
    // Bytes that come when it is gone.
    let gone = init(0, 1) + &load(128) + "@%p0 mbarrier.inval.shared::cta.b64 [%r2];\n" + &init(8, 1) + &wait(8, 0);
    bed(gone).faulty_late("mbarrier", "it is not initialised");
}

#[test]
fn initialisations_are_ordered_and_fenced() {
    let make = "@%p0 mbarrier.init.shared::cta.b64 [%r2], 32;\n";
    let use_it = "setp.ge.u32 %p1, %r0, 32; @%p1 mbarrier.arrive.shared::cta.b64 %d10, [%r2];\n";
    bed(make.to_owned() + use_it).faulty_late("mbarrier", "nothing orders this behind");
    bed(make.to_owned() + use_it).faulty("mbarrier", "");
    bed(make.to_owned() + BAR + use_it).every();
    // Within a warp too.
    let of_lane_1 = "setp.eq.u32 %p1, %r0, 1; @%p1 mbarrier.arrive.shared::cta.b64 %d10, [%r2];\n";
    bed(make.to_owned() + of_lane_1).faulty("mbarrier", "");
    bed(make.to_owned() + "bar.warp.sync -1;\n" + of_lane_1).every();

    let copy = expect(0, 128) + &load(128) + &wait(0, 0);
    let make = "@%p0 mbarrier.init.shared::cta.b64 [%r2], 1;\n";
    bed(make.to_owned() + BAR + &copy).faulty("mbarrier", "no fence makes visible");
    for fence in ["fence.mbarrier_init.release.cluster;\n", "fence.proxy.async;\n", FENCE] {
        bed(make.to_owned() + fence + BAR + &copy).every();
        bed(fence.to_owned() + make + BAR + &copy).faulty("mbarrier", "no fence makes visible");
    }
    // A fence of another lane does not do.
    let other = "setp.eq.u32 %p1, %r0, 1; @%p1 fence.mbarrier_init.release.cluster;\n";
    bed(make.to_owned() + other + BAR + &copy).faulty("mbarrier", "no fence makes visible");
}

#[test]
fn its_bytes_belong_to_it() {
    for touch in [
        "ld.shared.u32 %r10, [%r2];\n",
        "ld.shared.u64 %d10, [%r2];\n",
        "st.shared.u32 [%r2+4], %r0;\n",
        "st.shared.u8 [%r2+5], %r0;\n",
        "@%p0 atom.shared.add.u32 %r10, [%r2], 1;\n",
    ] {
        bed(init(0, 1) + touch).faulty("mbarrier", "an ordinary access");
    }
    let into = "add.u32 %r10, %r2, 16; @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], \
                [%d0], 16, [%r2];\n";
    bed(init(0, 1) + &init(16, 1) + &expect(0, 16) + into + &wait(0, 0)).faulty("mbarrier", "an ordinary access");
    let after =
        "@%p0 mbarrier.inval.shared::cta.b64 [%r2]; @%p0 st.shared.u32 [%r2], %r0; @%p0 ld.shared.u32 %r10, [%r2];\n";
    bed(init(0, 1) + after).every();
    // What was there before the mbarrier does not count, nor what is left of it.
    let leftover = "@%p0 mbarrier.inval.shared::cta.b64 [%r2]; @%p0 ld.shared.u32 %r10, [%r2];\n";
    bed(init(0, 1) + leftover).faulty("uninitialized memory", "shared");
    // Its initialisation is a write like others.
    let race = "st.shared.u32 [%r2], %r0;\n".to_owned() + &init(0, 1);
    bed(race).faulty("shared memory race", "");
}

#[test]
fn a_phase_must_not_run_away() {
    // Warp 1 completes two phases; only a mbarrier that warp 0 arrives at in between tells it that warp 0 saw the first.
    let two = |between: &str| {
        let mut body = [(0, 1), (8, 1), (16, 1)].map(|(at, count)| init(at, count)).concat();
        body += "setp.lt.u32 %p1, %r0, 32; setp.eq.u32 %p2, %r0, 32; @%p1 bra WAITER;\n\
                 @%p2 mbarrier.arrive.shared::cta.b64 _, [%r2];\nmov.u32 %r10, 0;\n\
                 { POLL: mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r2+8], 0;\n\
                 add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 40; @%p4 bra POLL; }\n";
        body += between;
        body += "@%p2 mbarrier.arrive.shared::cta.b64 _, [%r2];\nbra OUT;\nWAITER:\n";
        body += &wait(0, 0);
        body += "@%p0 mbarrier.arrive.shared::cta.b64 _, [%r2+16];\nOUT:\n";
        bed(body)
    };
    two("").faulty_late("mbarrier", "before block [0, 0, 0], warp 0 is known to have seen the end");
    two(&wait(16, 0)).every();
}

#[test]
fn exits_with_work_left() {
    bed(init(0, 1) + &expect(0, 128)).faulty("mbarrier", "expects 128 more bytes");
    bed(init(0, 1) + &expect(0, 128) + &load(128)).faulty_late("unfinished copy", "before a wait covers");
    bed(init(0, 2) + &expect(0, 128) + &load(128) + "nanosleep.u32 10;\n").faulty_late("unfinished copy", "");
    bed(init(0, 1) + &expect(0, 128) + &load(128) + &wait(0, 0)).every();
}
