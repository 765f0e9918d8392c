//! Lanes, warps, blocks and copies do what the schedule says, and the same whatever the schedule.

mod common;

use common::Bench;
use ptx_emu::{Architecture, Completion, GlobalAccess, Limits, Options, Schedule, Sectors, SharedAccess, Wavefronts};

const SCHEDULES: [Schedule; 4] = [Schedule::InOrder, Schedule::Reverse, Schedule::Random, Schedule::Diverged];

#[test]
fn divergent_lanes_each_take_their_path() {
    for schedule in SCHEDULES {
        for seed in 0..5 {
            let options = Options::new(Architecture::Sm80).schedule(schedule).seed(seed);
            let bench = Bench::new("machine/divergence.ptx").options(options).threads(70);
            let out = bench.blank(4 * 70);
            bench.clean("nested", &[out]);
            let expected: Vec<u32> = (0..70u32)
                .map(|t| {
                    let path = if t % 2 == 0 {
                        1
                    } else if t & 2 == 0 {
                        100
                    } else {
                        1100
                    };
                    path + 10 * t.max(1)
                })
                .collect();
            assert_eq!(bench.read_words(out, 70), expected, "{schedule:?}");
            bench.clean("jump_table", &[out]);
            let table: Vec<u32> = (0..70).map(|t| [10, 20, 30, 10][t % 4]).collect();
            assert_eq!(bench.read_words(out, 70), table);
        }
    }
}

#[test]
fn a_lane_may_wait_for_another_lane_of_its_warp() {
    for schedule in SCHEDULES {
        let mut limits = Limits::default();
        limits.block_instructions = 1_000_000;
        let options = Options::new(Architecture::Sm80).schedule(schedule).limits(limits);
        let bench = Bench::new("machine/divergence.ptx").options(options).threads(32);
        let out = bench.blank(128);
        bench.clean("lane_waits_for_lane", &[out]);
        assert_eq!(bench.read_words(out, 32), (0..32).collect::<Vec<u32>>());
    }
}

#[test]
fn lanes_meet_again_at_a_warp_barrier_under_every_schedule() {
    for schedule in SCHEDULES {
        let options = Options::new(Architecture::Sm80).schedule(schedule);
        let bench = Bench::new("machine/divergence.ptx").options(options).threads(32);
        let out = bench.blank(128);
        bench.clean("activemask_reconverged", &[out]);
        let masks = bench.read_words(out, 32);
        // After the barrier, lanes may part again only under the diverging schedule.
        if schedule != Schedule::Diverged {
            assert_eq!(masks, [u32::MAX; 32]);
        }
    }
}

#[test]
fn copies_fill_with_zeros_what_the_source_does_not_give() {
    for completion in [Completion::Latest, Completion::Earliest, Completion::Random] {
        let options = Options::new(Architecture::Sm80).completion(completion);
        let bench = Bench::new("machine/async_copy.ptx").options(options).threads(32);
        let source = bench.words(&(1..=256).collect::<Vec<u32>>());
        bench.clean("fill", &[source]);
        let found = bench.read_words(source + 512, 128);
        for (thread, words) in found.chunks(4).enumerate() {
            let expected: Vec<u32> =
                (0..4).map(|w| if w < thread % 4 { (4 * thread + w + 1) as u32 } else { 0 }).collect();
            assert_eq!(words, expected, "thread {thread}");
        }
        bench.clean("ignore", &[source]);
        let found = bench.read_words(source + 512, 128);
        for (thread, words) in found.chunks(4).enumerate() {
            let (a, b) = if thread % 2 == 0 { (0, 0) } else { (4 * thread as u32 + 1, 4 * thread as u32 + 2) };
            assert_eq!(words, [a, b, u32::MAX, u32::MAX], "thread {thread}");
        }
    }
}

#[test]
fn one_seed_reproduces_a_run() {
    let run = |seed, threads| {
        let options = Options::new(Architecture::Sm80).schedule(Schedule::Diverged).seed(seed).threads(threads);
        let bench = Bench::new("hazard/shared_race.ptx").options(options).blocks(6);
        let out = bench.blank(4 * 64);
        bench.run("warps_unordered", &[out])
    };
    assert_eq!(run(3, 1), run(3, 2));
    assert_eq!(run(3, 1), run(3, 1));
    assert!((4..20).any(|seed| run(seed, 1).hazards != run(3, 1).hazards), "another seed is another schedule");
}

const COUNTED: &str = ".version 7.8\n.target sm_80\n.address_size 64\n.shared .align 16 .b8 s[4096];\n\
    .visible .entry k(.param .u64 out, .param .u64 stride) {\n.reg .b32 %r<8>; .reg .b64 %d<8>; .reg .pred %p<3>;\n\
    ld.param.u64 %d1, [out];\nld.param.u32 %r4, [stride];\nmov.u32 %r1, %tid.x;\nmul.lo.u32 %r2, %r1, %r4;\n\
    mov.u32 %r3, s;\nadd.u32 %r3, %r3, %r2;\nst.shared.u32 [%r3], %r1;\nbar.warp.sync -1;\nld.shared.u32 %r5, [%r3];\n\
    cvt.u64.u32 %d2, %r2;\nadd.s64 %d3, %d1, %d2;\nst.global.u32 [%d3], %r5;\nret; }";

#[test]
fn bank_conflicts_and_sectors_are_counted() {
    for (stride, passes, sectors) in [(4, 1, 4), (8, 2, 8), (16, 4, 16), (128, 32, 32), (36, 4, 32)] {
        let bench = Bench::from_text(COUNTED).threads(32);
        let out = bench.blank(4096);
        // 36 bytes are 9 words: no two of 32 lanes share a bank.
        let passes = if stride == 36 { 1 } else { passes };
        let counters = bench.clean("k", &[out, stride]).counters;
        let fronts = Wavefronts { instructions: 1, actual: passes, ideal: 1 };
        assert_eq!(counters.shared[&SharedAccess::Store], fronts, "stride {stride}");
        assert_eq!(counters.shared[&SharedAccess::Load], fronts, "stride {stride}");
        let expected =
            (0..32u64).flat_map(|lane| [lane * stride / 32]).collect::<std::collections::BTreeSet<_>>().len() as u64;
        assert_eq!(expected, sectors);
        let traffic = Sectors { instructions: 1, actual: sectors, ideal: 4 };
        assert_eq!(counters.global[&GlobalAccess::Store], traffic, "stride {stride}");
        assert_eq!((counters.warp_instructions, counters.thread_instructions), (13, 13 * 32));
        assert_eq!(counters.instructions_like("st."), 2);
    }
}

#[test]
fn barriers_and_divergence_are_counted() {
    let bench = Bench::new("hazard/shared_race.ptx").blocks(3);
    let counters = bench.run("warps_barrier", &[bench.blank(256)]).counters;
    assert_eq!((counters.barrier_arrivals, counters.barrier_waits), (6, 3));
    let bench = Bench::new("machine/divergence.ptx").threads(32);
    let counters = bench.run("jump_table", &[bench.blank(128)]).counters;
    assert_eq!(counters.divergent_branches, 1);
    assert!(counters.divergent_instructions >= 3);
}
