//! Every way to get a bulk or tensor copy wrong is reported, and the right way next to it is not.

use crate::hopper::*;
use ptx_emu::tensor_map::Element;
use ptx_emu::{Completion, Schedule};

#[test]
fn ordinary_writes_need_a_fence_before_a_copy_reads_them() {
    let fenced = |before: &str, after: &str| bed(fill(128) + before + BAR + after + &store(128));
    fenced("", "").faulty("missing proxy fence", "no fence.proxy.async lies between it and the write by");
    fenced(FENCE, "").every();
    fenced("fence.proxy.async;\n", "").every();
    // Who issues the copy may fence as well, once it knows of the writes.
    fenced("", &format!("@%p0 {FENCE}")).every();
    // But not one that knows nothing of them, nor a fence of global memory, nor one of another kind.
    bed(FENCE.to_owned() + &fill(128) + BAR + &store(128)).faulty("missing proxy fence", "the write by");
    fenced("fence.proxy.async.global;\n", "").faulty("missing proxy fence", "the write by");
    fenced("fence.acq_rel.cta;\n", "").faulty("missing proxy fence", "the write by");
    // Only the first warp fences, and before it knows of the second warp's writes.
    let one = "setp.lt.u32 %p1, %r0, 32; @%p1 fence.proxy.async;\n";
    bed(fill(256) + one + BAR + &store(256)).faulty("missing proxy fence", "the write by block [0, 0, 0], warp 1");
    // Without the barrier there is a race, fence or not.
    bed(fill(128) + FENCE + &store(128)).faulty("shared memory race", "");
}

#[test]
fn ordinary_writes_need_a_fence_before_a_copy_writes_over_them() {
    let over = |fence: &str| bed(init(0, 1) + &fill(128) + fence + BAR + &expect(0, 128) + &load(128) + &wait(0, 0));
    over("").faulty("missing proxy fence", "asynchronous copy into it");
    over(FENCE).every();
}

#[test]
fn ordinary_reads_need_a_fence_where_one_asks_for_it() {
    let twice = |fence: &str| {
        let once = |parity| expect(0, 128) + &load(128) + &wait(0, parity);
        bed(init(0, 1) + &once(0) + &dump(128) + fence + BAR + &once(1))
    };
    twice("").every();
    let mut strict = twice("");
    strict.checks.fences_after_reads = true;
    strict.faulty("missing proxy fence", "the read by");
    let mut strict = twice(FENCE);
    strict.checks.fences_after_reads = true;
    strict.every();
    // Without the barrier it is a race.
    let once = |parity| expect(0, 128) + &load(128) + &wait(0, parity);
    bed(init(0, 1) + &once(0) + &dump(128) + &once(1)).faulty("shared memory race", "asynchronous copy into it");
}

#[test]
fn a_store_owns_its_source_until_it_has_read_it() {
    let then = |wait: &str, then: &str| {
        let copy = "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 128;\n".to_owned() + COMMIT;
        bed(fill(128) + FENCE + BAR + &copy + wait + then + WAIT_GROUP)
    };
    let read_wait = "@%p0 cp.async.bulk.wait_group.read 0;\n";
    let write = "@%p0 st.shared.u32 [%r1+4], 3;\n";
    then("", write).faulty("asynchronous copy in flight", "asynchronous read of it");
    then("", "@%p0 ld.shared.u32 %r10, [%r1+4];\n").every();
    then(read_wait, write).every();
    // Another warp must hear of the wait.
    let other = "setp.eq.u32 %p1, %r0, 40; @%p1 st.shared.u32 [%r1+4], 3;\n";
    let heard = BAR.to_owned() + other;
    then(read_wait, other).faulty("shared memory race", "is not ordered with the");
    then(read_wait, &heard).every();
    // Without a commit the wait covers nothing.
    let uncommitted =
        fill(128) + FENCE + BAR + "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 128;\n" + WAIT_GROUP;
    bed(uncommitted).faulty("unfinished copy", "asynchronous read of it");
    let unwaited = fill(128) + FENCE + BAR + "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 128;\n";
    bed(unwaited + COMMIT).faulty("unfinished copy", "asynchronous read of it");
}

#[test]
fn what_a_store_writes_is_there_after_the_whole_wait() {
    let read = |wait: &str, reader: &str| {
        let copy = "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 128;\n".to_owned() + COMMIT;
        bed(fill(128) + FENCE + BAR + &copy + wait + reader + WAIT_GROUP)
    };
    let own = "@%p0 ld.global.u32 %r10, [%d1+4];\n";
    let other = BAR.to_owned() + "setp.eq.u32 %p1, %r0, 40; @%p1 ld.global.u32 %r10, [%d1+4];\n";
    let only_read = "@%p0 cp.async.bulk.wait_group.read 0;\n";
    for wait in ["", only_read] {
        read(wait, own).faulty("asynchronous copy in flight", "global address");
        read(wait, &other).faulty("asynchronous copy in flight", "global address");
        read(wait, &own.replace("ld.global.u32 %r10, [%d1+4]", "st.global.u32 [%d1+4], %r0"))
            .faulty("asynchronous copy in flight", "global address");
    }
    read(WAIT_GROUP, own).every();
    read(WAIT_GROUP, &other).every();
    // A copy back reads it too.
    let back =
        "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+1024], [%d1], 128, [%r2];\n";
    let back = init(0, 1) + &expect(0, 128) + back + &wait(0, 0);
    read(only_read, &back).faulty("asynchronous copy in flight", "global address");
    read(WAIT_GROUP, &back).every();
    // Two stores to the same place.
    let twice = fill(128) + FENCE + BAR + "setp.eq.u32 %p0, %laneid, 0;\n" + &store(128);
    bed(twice.replace("setp.eq.u32 %p0, %laneid, 0;", "mov.u32 %r10, %laneid; setp.eq.u32 %p0, %r10, 0;"))
        .faulty("asynchronous copy in flight", "asynchronous copy into it at global");
}

#[test]
fn unwritten_sources() {
    bed(store(128)).faulty("uninitialized memory", "shared");
    bed(fill(124) + FENCE + BAR + &store(128)).faulty("uninitialized memory", "shared");
    // Only what a box stores of itself must be there.
    let tensor = |filled: u32| {
        let mut test = bed(fill(filled)
            + FENCE
            + BAR
            + "mov.u32 %r10, 0; @%p0 cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [%d2, {%r10}], [%r1];\n"
            + COMMIT
            + WAIT_GROUP);
        test.map = Some((Of::Output, map(Element::F32, &[5], &[], &[64])));
        test
    };
    tensor(20).every();
    tensor(16).faulty("uninitialized memory", "read of 4 bytes at shared address 0x10");
}

#[test]
fn places_and_sizes() {
    let copy = |to: &str, from: &str, bytes: u32, barrier: &str| {
        format!(
            "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}], [{from}], {bytes}, [{barrier}];\n"
        )
    };
    let load = |to: &str, from: &str, bytes: u32| bed(init(0, 1) + &expect(0, 64) + &copy(to, from, bytes, "%r2"));
    load("%r1+8", "%d0", 64).faulty("misaligned", "not a multiple of 16");
    load("%r1", "%d0+8", 64).faulty("misaligned", "not a multiple of 16");
    load("%r1", "%d0", 24).faulty("tensor map", "a copy of 24 bytes");
    load("%r1", "%d0", 0).faulty("tensor map", "a copy of 0 bytes");
    load("%r1+32752", "%d0", 1024).faulty("out of bounds", "shared");
    load("%r1", "%d0+8176", 64).faulty("out of bounds", "across the end of the allocation");
    let barrier = init(0, 1) + &copy("%r1", "%d0", 64, "%r2+4");
    bed(barrier).faulty("mbarrier", "it is not initialised");
    let barrier = init(0, 1) + &copy("%r1", "%d0", 64, "%r2+4096");
    bed(barrier).faulty("mbarrier", "it is not initialised");
    let store = |to: &str, from: &str, bytes: u32| {
        let copy = format!("@%p0 cp.async.bulk.global.shared::cta.bulk_group [{to}], [{from}], {bytes};\n");
        bed(fill(256) + FENCE + BAR + &copy + COMMIT + WAIT_GROUP)
    };
    store("%d1", "%r1", 64).every();
    store("%d1+4", "%r1", 64).faulty("misaligned", "asynchronous copy into it at global");
    store("%d1", "%r1+4", 64).faulty("misaligned", "asynchronous read of it at shared");
    store("%d1+8176", "%r1", 64).faulty("out of bounds", "across the end");
}

#[test]
fn tensor_copies_that_make_no_sense() {
    let tensor = |rank: u32, at: &str, to: &str| {
        let zeros = vec!["%r10"; rank as usize].join(", ");
        let body = init(0, 1)
            + "mov.u32 %r10, 0;\n"
            + &format!(
                "@%p0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
                 [{to}], [{at}, {{{zeros}}}], [%r2];\n"
            )
            + &expect(0, 256)
            + &wait(0, 0);
        let mut test = bed(body);
        test.map = Some((Of::Input, map(Element::F32, &[16, 8], &[64], &[16, 4])));
        test
    };
    tensor(2, "%d2", "%r1").every();
    tensor(2, "%d2", "%r1+64").faulty("misaligned", "not a multiple of 128");
    tensor(1, "%d2", "%r1").faulty("tensor map", "1 dimensions of a tensor of 2");
    tensor(3, "%d2", "%r1").faulty("tensor map", "3 dimensions of a tensor of 2");
    tensor(2, "%d2+16", "%r1").faulty("tensor map", "not 64-byte aligned");
    tensor(2, "%d2+64", "%r1").faulty("tensor map", "beyond the parameters");
    tensor(2, "%d0", "%r1").faulty("tensor map", "no tensor map at this address");
    tensor(2, "%r10", "%r1").faulty("tensor map", "no memory for a tensor map");
    let mut garbage = tensor(2, "%d2", "%r1");
    garbage.map_bytes = Some([0x5a; 128]);
    garbage.map = None;
    garbage.faulty("tensor map", "no tensor map at this address");
    // Damage to each byte of a map gives a report or a copy, never a panic.
    let valid = map(Element::F32, &[16, 8], &[64], &[16, 4]).encode().unwrap();
    for at in 0..128 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = valid;
            damaged[at] = value;
            let mut test = tensor(2, "%d2", "%r1");
            (test.map, test.map_bytes) = (None, Some(damaged));
            let (report, _) = test.try_run(Schedule::InOrder, Completion::Latest);
            report.unwrap();
        }
    }
    // The tensor reaches beyond its memory.
    let mut beyond = tensor(2, "%d2", "%r1");
    beyond.map = Some((Of::Input, map(Element::F32, &[16, 8], &[1 << 20], &[16, 4])));
    beyond.faulty("out of bounds", "asynchronous read");
    let mut store = bed(fill(256)
        + FENCE
        + BAR
        + "mov.u32 %r10, 0;\n@%p0 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d2, {%r10, %r10}], [%r1];\n"
        + COMMIT
        + WAIT_GROUP);
    store.map = Some((Of::Output, map(Element::F32, &[16, 8], &[1 << 20], &[16, 4])));
    store.faulty("out of bounds", "asynchronous copy into it");
    let reduce = store.body.replace("cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor");
    let reduce = reduce.replace("shared::cta.tile.bulk_group", "shared::cta.inc.tile.bulk_group");
    let mut store = bed(reduce);
    store.map = Some((Of::Output, map(Element::F32, &[16, 8], &[64], &[16, 4])));
    store.faulty("tensor map", "no such reduction of elements of");
}

#[test]
fn boxes_begin_at_multiples_of_16_bytes_along_a_row() {
    let load = |name: &str| {
        init(0, 1) + &expect(0, 256) + &format!("@%p0 {name} [%r1], [%d2, {{%r10, %r11}}], [%r2];\n") + &wait(0, 0)
    };
    let store = |name: &str| {
        let copy = format!("@%p0 {name} [%d2, {{%r10, %r11}}], [%r1];\n");
        fill(256) + FENCE + BAR + &copy + COMMIT + WAIT_GROUP
    };
    let bodies = [
        load("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"),
        store("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group"),
        store("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group"),
        "@%p0 cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%d2, {%r10, %r11}];\n".to_owned(),
    ];
    for body in bodies {
        let test = |element: Element, x: i32, y: i32| {
            let mut test = bed(format!("mov.s32 %r10, {x}; mov.s32 %r11, {y};\n{body}"));
            let inner = 64 / element.bytes();
            test.map = Some((Of::Output, map(element, &[u64::from(inner), 8], &[64], &[inner, 4])));
            test
        };
        // Also where all of the box lies outside.
        for (element, x, along) in [
            (Element::Bf16, 3, 6),
            (Element::Bf16, -5, -10),
            (Element::Bf16, i32::MAX, 2 * i64::from(i32::MAX)),
            (Element::F32, 2, 8),
            (Element::U64, 1, 8),
        ] {
            let bytes = element.bytes();
            let says = format!(
                "lane 0: a box at [{x}, 1], whose innermost coordinate {x} in elements of {bytes} bytes is {along} bytes along \
                 the row; it must be a multiple of 16"
            );
            let test = test(element, x, 1);
            test.faulty("tensor map", &says);
            // At the line of the copy.
            let text = test.text();
            let line = 1 + text.lines().position(|line| line.contains("%r10, %r11}")).expect("there is a copy");
            test.faulty_late("tensor map", &format!("kernel k, PTX line {line} (`cp."));
        }
        // The other coordinates are free.
        for (element, x, y) in [
            (Element::Bf16, -8, 3),
            (Element::Bf16, 8, -1),
            (Element::Bf16, i32::MAX - 7, i32::MAX),
            (Element::Bf16, i32::MIN, i32::MIN),
            (Element::F32, 4, 5),
            (Element::U64, -2, 1),
        ] {
            test(element, x, y).every();
        }
    }
    // Of bytes, every sixteenth one. There is no reduction of them.
    for (x, is_good) in [(16, true), (8, false), (-1, false)] {
        let mut test = bed(format!("mov.s32 %r10, {x}; mov.s32 %r11, 0;\n")
            + &load("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"));
        test.map = Some((Of::Input, map(Element::U8, &[64, 8], &[64], &[64, 4])));
        if is_good {
            test.every();
        } else {
            test.faulty("tensor map", &format!("coordinate {x} in elements of 1 bytes is {x} bytes along the row"));
        }
    }
}
