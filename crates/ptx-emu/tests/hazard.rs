//! Each kind of hazard is found where it is, and not where it is not.

mod common;

use common::Bench;
use ptx_emu::{Access, Architecture, Completion, Error, HazardKind, Limits, Options, Schedule, Space};

const SCHEDULES: [Schedule; 4] = [Schedule::InOrder, Schedule::Reverse, Schedule::Random, Schedule::Diverged];

/// The options of each schedule, with a few seeds for those that draw.
fn schedules() -> impl Iterator<Item = Options> {
    SCHEDULES.into_iter().flat_map(|schedule| {
        let seeds = if matches!(schedule, Schedule::InOrder | Schedule::Reverse) { 1 } else { 4 };
        (0..seeds).map(move |seed| Options::new(Architecture::Sm80).schedule(schedule).seed(seed))
    })
}

#[test]
fn global_store_past_the_end_names_lane_and_distance() {
    let bench = Bench::new("hazard/out_of_bounds.ptx");
    let out = bench.blank(4 * 40);
    let hazards = bench.hazards("global_store", &[out], &["out of bounds"]);
    let hazard = &hazards[0];
    assert_eq!((hazard.warp, hazard.lane, hazard.address), (1, Some(8), Some(out + 160)));
    let HazardKind::OutOfBounds { space, access, bytes, nearest } = &hazard.kind else { panic!("{hazard}") };
    assert_eq!((*space, *access, *bytes), (Space::Global, Access::Write, 4));
    assert!(nearest.starts_with("0 bytes after the end of the allocation of 160 bytes"), "{nearest}");
    assert_eq!(bench.read_words(out, 32), (0..32).collect::<Vec<u32>>(), "warp 0 had its turn before");
}

#[test]
fn accesses_outside_of_memory_are_found_in_every_space() {
    let bench = Bench::new("hazard/out_of_bounds.ptx");
    let words = bench.words(&[0; 40]);
    for kernel in ["global_load", "shared_store", "parameter", "generic_null", "async_source"] {
        bench.hazards(kernel, &[words], &["out of bounds"]);
    }
    // A source of size zero is not read.
    Bench::new("hazard/out_of_bounds.ptx").threads(1).clean("async_source_ignored", &[words]);
}

#[test]
fn freed_memory_is_out_of_bounds() {
    let bench = Bench::new("hazard/out_of_bounds.ptx");
    let words = bench.words(&[0; 64]);
    bench.clean("global_load", &[words]);
    bench.memory.free(words).unwrap();
    bench.hazards("global_load", &[words], &["out of bounds"]);
}

#[test]
fn misaligned_accesses_are_reported_once_per_instruction() {
    let bench = Bench::new("hazard/misaligned.ptx").threads(32);
    let words = bench.words(&[0; 64]);
    let global = bench.hazards("global", &[words], &["misaligned"]);
    assert_eq!((global[0].lane, global[0].address), (Some(1), Some(words + 4)));
    bench.hazards("shared", &[words], &["misaligned"]);
}

#[test]
fn reads_of_what_nothing_wrote_are_reported() {
    let bench = Bench::new("hazard/uninitialized.ptx").threads(32);
    let blank = bench.blank(128);
    bench.hazards("global", &[blank], &["uninitialized memory"]);
    let shared = Bench::new("hazard/uninitialized.ptx").threads(1).hazards("shared", &[0], &["uninitialized memory"]);
    assert!(matches!(shared[0].kind, HazardKind::UninitializedMemory { space: Space::Shared, bytes: 4 }));
    let local = bench.hazards("local", &[0], &["uninitialized memory"]);
    assert_eq!(local[0].address, Some(4));
    let words = bench.words(&[0; 32]);
    for (entry, name) in [("register", Some("%r2")), ("computed", None), ("address", None), ("decision", Some("%p2"))] {
        let found = bench.hazards(entry, &[words], &["undefined register"]);
        let HazardKind::UndefinedRegister { register, lanes } = &found[0].kind else { panic!() };
        assert_eq!((register.as_deref(), *lanes), (name, 0xffff_ff00), "{entry}");
    }
    bench.clean("unselected", &[0]);
    // What is computed ahead of the decision whether it is needed harms nobody.
    bench.clean("ahead", &[words]);
    bench.hazards("predicate", &[0], &["undefined register"]);
}

#[test]
fn poisoned_memory_counts_as_unwritten() {
    let bench = Bench::new("hazard/uninitialized.ptx").threads(32);
    let words = bench.words(&[1; 32]);
    bench.clean("global", &[words]);
    bench.memory.poison(words + 8, 2).unwrap();
    let hazards = bench.hazards("global", &[words], &["uninitialized memory"]);
    assert_eq!((hazards[0].lane, hazards[0].address), (Some(2), Some(words + 8)));
}

#[test]
fn shared_races_are_found_under_every_schedule() {
    for options in schedules() {
        let bench = Bench::new("hazard/shared_race.ptx").options(options);
        let out = bench.blank(4 * 64);
        for racy in [
            "warps_unordered",
            "warps_wrong_barrier",
            "lanes_unordered",
            "lanes_shuffle_only",
            "lanes_wrong_partial_sync",
            "read_then_write",
            "different_values",
            "half_of_a_word_read",
            "atomic_and_plain",
        ] {
            bench.racy(racy, &[out], "shared memory race");
        }
    }
}

#[test]
fn ordered_accesses_are_no_race_under_any_schedule() {
    for options in schedules() {
        let bench = Bench::new("hazard/shared_race.ptx").options(options);
        let out = bench.blank(4 * 64);
        bench.clean("warps_barrier", &[out]);
        assert_eq!(bench.read_words(out, 64), (0..64).map(|t| t ^ 32).collect::<Vec<u32>>());
        for lanes in ["lanes_warp_sync", "lanes_partial_sync"] {
            bench.clean(lanes, &[out]);
            assert_eq!(bench.read_words(out, 64), (0..64).map(|t| t ^ 1).collect::<Vec<u32>>());
        }
        bench.clean("halves_of_a_word", &[out]);
        bench.clean("atomics", &[out]);
        assert_eq!(bench.read_words(out, 64), [64; 64]);
    }
    let bench = Bench::new("hazard/shared_race.ptx").threads(32);
    bench.clean("same_value", &[bench.blank(4)]);
}

#[test]
fn a_race_names_both_sides() {
    let bench = Bench::new("hazard/shared_race.ptx");
    let out = bench.blank(4 * 64);
    let hazard = bench.racy("warps_unordered", &[out], "shared memory race");
    let HazardKind::Race { space, access, other } = &hazard.kind else { panic!() };
    assert_eq!((*space, *access, other.access), (Space::Shared, Access::Read, Access::Write));
    assert_eq!((hazard.warp, other.warp), (1, 0));
    assert_eq!((&*hazard.position.opcode, &*other.position.opcode), ("ld.shared.u32", "st.shared.u32"));
    assert_eq!((hazard.lane, other.lane), (Some(0), Some(0)));
    let text = hazard.to_string();
    assert!(text.contains("is not ordered with the write by block [0, 0, 0], warp 0, lane 0"), "{text}");
}

#[test]
fn global_races_inside_a_block() {
    for options in schedules() {
        let bench = Bench::new("hazard/global_race.ptx").options(options);
        let out = bench.words(&[0; 64]);
        bench.hazards("warps", &[out], &["global memory race"]);
        bench.clean("warps_barrier", &[out]);
    }
}

#[test]
fn global_races_between_blocks_do_not_depend_on_host_threads() {
    let mut reports = Vec::new();
    for threads in [1, 2, 4] {
        let options = Options::new(Architecture::Sm80).threads(threads);
        let bench = Bench::new("hazard/global_race.ptx").options(options).threads(32).blocks(8);
        let out = bench.words(&[0; 64]);
        let hazards = bench.hazards("blocks_write_write", &[out], &["global memory race"]);
        assert_eq!(hazards[0].count, 32);
        bench.hazards("blocks_read_write", &[out], &["global memory race"]);
        bench.clean("blocks_read", &[out]);
        bench.clean("blocks_atomic", &[out]);
        let pairs = Bench::new("hazard/global_race.ptx").threads(32).blocks(2);
        let out = pairs.words(&[0; 64]);
        pairs.clean("blocks_halves", &[out]);
        reports.push(hazards);
    }
    assert!(reports.iter().all(|r| *r == reports[0]));
}

#[test]
fn atomics_between_blocks_order_memory_only_with_fences() {
    for (kernel, hazards) in [
        ("fenced", &[][..]),
        ("acquire_release", &[]),
        ("without_release", &["global memory race"]),
        ("without_acquire", &["global memory race"]),
    ] {
        let bench = Bench::new("hazard/last_block.ptx").threads(1).blocks(16);
        let (out, counter) = (bench.blank(64), bench.words(&[0]));
        bench.hazards(kernel, &[out, counter], hazards);
        assert_eq!(bench.read_words(out, 1), [120], "{kernel}");
    }
}

#[test]
fn blocks_may_wait_for_earlier_blocks() {
    let bench = Bench::new("hazard/last_block.ptx").threads(1).blocks(6);
    let (out, counter) = (bench.words(&[1]), bench.words(&[0]));
    bench.clean("wait_in_turn", &[out, counter]);
    let expected = (0..6).fold(1, |value, block| value * 2 + block);
    assert_eq!(bench.read_words(out, 1), [expected]);
}

#[test]
fn asynchronous_copies_touched_before_their_wait() {
    for completion in [Completion::Latest, Completion::Earliest, Completion::Random] {
        for options in schedules() {
            let bench = Bench::new("hazard/async_copy.ptx").options(options.completion(completion));
            let values: Vec<u32> = (0..1024).collect();
            for (kernel, kinds) in [
                ("no_wait", &["asynchronous copy in flight"][..]),
                ("no_commit", &["asynchronous copy in flight"]),
                ("one_group_too_few", &["asynchronous copy in flight"]),
                ("written_before_wait", &["asynchronous copy in flight"]),
                ("other_warp", &["shared memory race", "asynchronous copy in flight"]),
                ("barrier_before_wait", &["shared memory race", "asynchronous copy in flight"]),
                ("copied_over_readers", &["shared memory race", "asynchronous copy in flight"]),
            ] {
                let source = bench.words(&values);
                let report = bench.run(kernel, &[source]);
                assert!(!report.hazards.is_empty(), "{kernel}");
                // Which it is depends on who comes first; who comes too early reads what is not there yet.
                let known = |name| kinds.contains(&name) || kinds.len() > 1 && name == "uninitialized memory";
                assert!(report.hazards.iter().all(|h| known(h.kind.name())), "{kernel}: {:?}", report.hazards);
            }
            for (kernel, other) in
                [("waited", 0), ("wait_all", 0), ("empty_groups_count", 0), ("other_warp_barrier", 128)]
            {
                let source = bench.words(&values);
                bench.clean(kernel, &[source]);
                let found = bench.read_words(source + 2048, 256);
                for thread in 0..64 {
                    assert_eq!(found[4 * thread], (4 * thread as u32) ^ other, "{kernel}");
                }
            }
        }
    }
}

#[test]
fn the_late_copy_leaves_old_data_and_the_early_one_new() {
    for (completion, expected) in [(Completion::Latest, u32::MAX), (Completion::Earliest, 4)] {
        let options = Options::new(Architecture::Sm80).completion(completion);
        let bench = Bench::new("hazard/async_copy.ptx").options(options);
        let source = bench.words(&(0..1024).collect::<Vec<u32>>());
        bench.hazards("no_wait", &[source], &["asynchronous copy in flight"]);
        assert_eq!(bench.read_words(source + 2048 + 16, 1), [expected]);
    }
}

#[test]
fn barriers_that_not_everyone_reaches() {
    for options in schedules() {
        let bench = Bench::new("hazard/barrier.ptx").options(options).threads(64);
        let out = bench.blank(128);
        let half = bench.hazards("half_a_warp", &[out], &["barrier divergence"]);
        let HazardKind::BarrierDivergence { barrier: 0, present, missing } = half[0].kind else { panic!() };
        assert_eq!((present | missing, present & missing), (u32::MAX, 0));
        let stuck = bench.hazards("deadlock", &[out], &["deadlock"]);
        let HazardKind::Deadlock { warps } = &stuck[0].kind else { panic!() };
        let places: Vec<_> = warps.iter().map(|w| (w.warp, w.waits_for.as_str())).collect();
        assert_eq!(
            places,
            [(0, "barrier 2, where 32 of 64 threads are"), (1, "barrier 1, where 32 of 64 threads are")]
        );
        assert!(warps.iter().all(|w| &*w.position.opcode == "bar.sync"));
        bench.hazards("odd_count", &[out], &["barrier count"]);
        bench.clean("exited_threads", &[out]);
        bench.clean("producer_consumer", &[out]);
        assert_eq!(bench.read_words(out, 32), (0..32).collect::<Vec<u32>>());
    }
}

#[test]
fn a_barrier_with_two_counts_in_one_phase() {
    let bench = Bench::new("hazard/barrier.ptx").threads(64);
    let out = bench.blank(128);
    let hazards = bench.hazards("count_mismatch", &[out], &["barrier count"]);
    assert!(matches!(hazards[0].kind, HazardKind::BarrierCount { barrier: 1, count: 32, expected: 64 }));
}

#[test]
fn warp_instructions_without_all_their_lanes() {
    for options in schedules() {
        let bench = Bench::new("hazard/participants.ptx").options(options).threads(32);
        let shuffle = bench.hazards("divergent_shuffle", &[0], &["missing participants"]);
        let HazardKind::MissingParticipants { required, present } = shuffle[0].kind else { panic!() };
        assert!(required == u32::MAX && matches!(present, 0xffff | 0xffff_0000));
        bench.clean("masked_shuffle", &[0]);
        bench.hazards("not_a_member", &[0], &["invalid participant"]);
        bench.hazards("source_not_a_member", &[0], &["invalid participant"]);
        bench.clean("exited_lanes", &[0]);
        bench.hazards("divergent_ldmatrix", &[0], &["missing participants"]);
    }
}

#[test]
fn division_by_zero_and_trap() {
    let bench = Bench::new("hazard/faults.ptx").threads(32);
    let words = bench.words(&std::array::from_fn::<u32, 32, _>(|i| i as u32 % 7));
    let hazards = bench.hazards("divide", &[words], &["division by zero"]);
    assert_eq!(hazards[0].lane, Some(0));
    let out = bench.read_words(words, 32);
    for (thread, value) in out.iter().enumerate().filter(|(thread, _)| thread % 7 != 0) {
        assert_eq!(*value, thread as u32 / (thread as u32 % 7));
    }
    let trap = bench.hazards("trap", &[words], &["trap"]);
    assert_eq!(trap[0].lane, Some(5));
}

#[test]
fn endless_loops_end_at_the_limit() {
    let mut limits = Limits::default();
    limits.block_instructions = 10_000;
    let bench = Bench::new("hazard/faults.ptx").options(Options::new(Architecture::Sm80).limits(limits));
    let error = bench.try_run("spin", &[0]).unwrap_err();
    assert_eq!(error, Error::Limit { what: "warp instructions of a block", limit: 10_000 });
}

#[test]
fn copies_of_an_unrolled_loop_are_one_place() {
    let body = "ld.shared.u32 %r2, [%r1];\n".repeat(8);
    let text = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.shared .align 4 .b8 s[16];\n.visible .entry k() {{\n\
         .reg .b32 %r<3>;\nmov.u32 %r1, s;\n.loc 1 5 3\n{body}.loc 1 6 3\n{body}ret; }}\n.file 1 \"a.cu\"\n"
    );
    let hazards = Bench::from_text(&text).threads(1).hazards("k", &[], &["uninitialized memory"]);
    let places: Vec<_> = hazards.iter().map(|h| (h.file(), h.line(), h.count)).collect();
    assert_eq!(places, [(Some("a.cu"), 5, 8), (Some("a.cu"), 6, 8)]);
}
