//! Clusters: their numbers, their barrier, shared memory of other blocks, copies between blocks.

use crate::hopper::*;
use ptx_emu::tensor_map::Element;

#[test]
fn every_block_knows_its_place() {
    let names = [
        "%cluster_ctaid.x",
        "%cluster_ctaid.y",
        "%cluster_ctaid.z",
        "%cluster_nctaid.x",
        "%cluster_nctaid.y",
        "%cluster_nctaid.z",
        "%clusterid.x",
        "%clusterid.y",
        "%clusterid.z",
        "%nclusterid.x",
        "%nclusterid.y",
        "%nclusterid.z",
        "%cluster_ctarank",
        "%cluster_nctarank",
    ];
    let (grid, cluster) = ([4u32, 3, 6], [2u32, 1, 3]);
    let mut body = "mov.u32 %r10, %ctaid.x; mov.u32 %r11, %ctaid.y; mov.u32 %r12, %ctaid.z; mov.u32 %r13, %nctaid.x;\n\
        mov.u32 %r14, %nctaid.y; mad.lo.u32 %r11, %r12, %r14, %r11; mad.lo.u32 %r10, %r11, %r13, %r10;\n\
        mul.wide.u32 %d10, %r10, 64; add.s64 %d10, %d1, %d10;\n"
        .to_owned();
    for (at, name) in names.iter().enumerate() {
        body += &format!("mov.u32 %r15, {name}; @%p0 st.global.u32 [%d10+{}], %r15;\n", 4 * at);
    }
    let mut test = bed(body);
    (test.grid, test.cluster) = (grid, cluster);
    let out = to_words(&test.every());
    for linear in 0..72 {
        let block = [linear % 4, linear / 4 % 3, linear / 12];
        let inside: [u32; 3] = std::array::from_fn(|axis| block[axis] % cluster[axis]);
        let of: [u32; 3] = std::array::from_fn(|axis| block[axis] / cluster[axis]);
        let count: [u32; 3] = std::array::from_fn(|axis| grid[axis] / cluster[axis]);
        let rank = inside[0] + 2 * (inside[1] + inside[2]);
        let expected = [&inside[..], &cluster, &of, &count, &[rank, 6]].concat();
        assert_eq!(out[16 * linear as usize..][..14], expected, "block {block:?}");
    }
}

#[test]
fn mapped_addresses_name_their_block() {
    let body = "mapa.shared::cluster.u32 %r10, %r1, 2; getctarank.shared::cluster.u32 %r11, %r10;\n\
        cvt.u64.u32 %d10, %r1; cvta.shared.u64 %d10, %d10; mov.u32 %r12, 3; mapa.u64 %d11, %d10, %r12;\n\
        getctarank.u64 %r13, %d11; getctarank.u64 %r14, %d10; mapa.shared::cluster.u32 %r15, %r10, %r3;\n\
        getctarank.shared::cluster.u32 %r15, %r15; isspacep.shared::cluster %p1, %d11; selp.u32 %r16, 1, 0, %p1;\n\
        isspacep.shared::cta %p1, %d11; @%p1 add.u32 %r16, %r16, 2;\n\
        mad.lo.u32 %r11, %r11, 10, %r13; mad.lo.u32 %r11, %r11, 10, %r14; mad.lo.u32 %r11, %r11, 10, %r15;\n\
        mad.lo.u32 %r11, %r11, 10, %r16;\n"
        .to_owned()
        + &put("%r11");
    let out = to_words(&bed(body).cluster_of(4).every());
    // Ranks 2, 3, the own one twice; then whether rank 3 is in the cluster and, twice that, in the block.
    for rank in 0..4 {
        let own = if rank == 3 { 2 } else { 0 };
        assert_eq!(out[64 * rank], (23_001 + 110 * rank + own) as u32);
    }
}

/// `%r10` is the address that corresponds to `from` in the block of the next rank.
fn next(from: &str, count: u32) -> String {
    format!(
        "add.u32 %r11, %r3, 1; rem.u32 %r11, %r11, {count}; mapa.shared::cluster.u32 %r10, {from}, %r11;\n\
         cvt.u64.u32 %d10, %r10; mov.u64 %d11, 0x7f0000000000; add.s64 %d10, %d10, %d11;\n"
    )
}

#[test]
fn loads_stores_and_atomics_of_other_blocks() {
    // Each block writes into the next one, adds to a counter of all, and reads from the next one, in both address spaces.
    let body = "shl.b32 %r12, %r0, 2; add.u32 %r13, %r1, %r12; @%p0 st.shared.u32 [%r1+4096], 0;\n".to_owned()
        + CLUSTER_SYNC
        + &next("%r13", 3)
        + "mad.lo.u32 %r14, %r3, 100, %r0; st.shared::cluster.u32 [%r10], %r14; st.u32 [%d10+1024], %r14;\n\
           mapa.shared::cluster.u32 %r15, %r1, 1; atom.shared::cluster.add.u32 %r16, [%r15+4096], 1;\n\
           red.shared::cluster.add.u32 [%r15+4096], 2;\n"
        + CLUSTER_SYNC
        + "ld.shared.u32 %r20, [%r13]; ld.shared::cluster.u32 %r21, [%r10]; ld.u32 %r22, [%d10+1024];\n\
           ld.shared::cluster.u32 %r23, [%r15+4096]; add.u32 %r20, %r20, %r21; add.u32 %r20, %r20, %r22;\n\
           mad.lo.u32 %r20, %r23, 65536, %r20;\n"
        + CLUSTER_SYNC
        + &put("%r20");
    let out = to_words(&bed(body).cluster_of(3).every());
    for (at, value) in out[..192].iter().enumerate() {
        let (rank, thread) = (at as u32 / 64, at as u32 % 64);
        let before = (rank + 2) % 3;
        let sum = 100 * before + thread + 2 * (100 * rank + thread);
        assert_eq!(*value, sum + 65536 * (3 * 192), "block {rank}, thread {thread}");
    }
}

#[test]
fn arrivals_at_other_blocks() {
    // Each block writes into the next one, arrives there, and waits at home.
    let with = |arrive: &str| {
        init(0, 64)
            + CLUSTER_SYNC
            + "shl.b32 %r12, %r0, 2; add.u32 %r13, %r1, %r12;\n"
            + &next("%r13", 4)
            + "mad.lo.u32 %r14, %r3, 100, %r0; st.shared::cluster.u32 [%r10], %r14;\n"
            + &next("%r2", 4)
            + arrive
            + &wait(0, 0).replace("try_wait.parity", "try_wait.parity.acquire.cluster")
            + "ld.shared.u32 %r20, [%r13];\n"
            + CLUSTER_SYNC
            + &put("%r20")
    };
    for arrive in [
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10];\n",
        "mbarrier.arrive.release.cluster.b64 _, [%d10];\n",
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10], 1;\n",
        "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r10], 0;\n",
    ] {
        let out = to_words(&bed(with(arrive)).cluster_of(4).every());
        for (at, value) in out[..256].iter().enumerate() {
            let (rank, thread) = (at as u32 / 64, at as u32 % 64);
            assert_eq!(*value, (rank + 3) % 4 * 100 + thread);
        }
    }
    bed(with("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r10];\n"))
        .cluster_of(4)
        .faulty("shared memory race", "");
    bed(with("mbarrier.arrive.release.cluster.shared::cta.b64 _, [%r2];\n"))
        .cluster_of(4)
        .faulty("shared memory race", "");
}

#[test]
fn the_barrier_orders_and_its_halves_may_be_apart() {
    let exchange = |arrive: &str, wait: &str| {
        "shl.b32 %r12, %r0, 2; add.u32 %r13, %r1, %r12; mad.lo.u32 %r14, %r3, 100, %r0; st.shared.u32 [%r13], %r14;\n"
            .to_owned()
            + arrive
            + "mov.u32 %r15, 5;\n"
            + wait
            + &next("%r13", 2)
            + "ld.shared::cluster.u32 %r20, [%r10];\n"
            + CLUSTER_SYNC
            + &put("%r20")
    };
    let expected: Vec<u32> = (0..128).map(|at| (1 - at / 64) * 100 + at % 64).collect();
    for (arrive, wait) in [
        ("barrier.cluster.arrive;\n", "barrier.cluster.wait;\n"),
        ("barrier.cluster.arrive.release.aligned;\n", "barrier.cluster.wait.acquire.aligned;\n"),
        ("fence.acq_rel.cluster;\nbarrier.cluster.arrive.relaxed;\n", "barrier.cluster.wait;\n"),
    ] {
        assert_eq!(to_words(&bed(exchange(arrive, wait)).cluster_of(2).every())[..128], expected);
    }
    let relaxed = exchange("barrier.cluster.arrive.relaxed;\n", "barrier.cluster.wait;\n");
    bed(relaxed).cluster_of(2).faulty("shared memory race", "");
    bed(exchange("", "")).cluster_of(2).faulty("shared memory race", "");
}

#[test]
fn an_initialisation_goes_through_a_relaxed_arrival() {
    let with = |fence: &str| {
        "@%p0 mbarrier.init.shared::cta.b64 [%r2], 64;\n".to_owned()
            + fence
            + "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;\n"
            + &next("%r2", 2)
            + "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10];\n"
            + &wait(0, 0)
            + CLUSTER_SYNC
    };
    bed(with("@%p0 fence.mbarrier_init.release.cluster;\n")).cluster_of(2).every();
    bed(with("")).cluster_of(2).faulty("mbarrier", "nothing orders this behind");
    bed(with(FENCE)).cluster_of(2).faulty("mbarrier", "nothing orders this behind");
}

#[test]
fn who_has_exited_is_not_waited_for() {
    // The second warp of each block leaves at once; later all of block 1 does.
    let body = "setp.ge.u32 %p1, %r0, 32; @%p1 bra OUT;\n".to_owned()
        + CLUSTER_SYNC
        + "setp.eq.u32 %p2, %r3, 1; @%p2 bra OUT;\n"
        + CLUSTER_SYNC
        + "mov.u32 %r10, 9;\n"
        + &put("%r10")
        + "OUT:\n";
    assert_eq!(to_words(&bed(body).cluster_of(2).every())[0], 9);
}

#[test]
fn barriers_out_of_turn() {
    bed("barrier.cluster.arrive;\nbarrier.cluster.arrive;\nbarrier.cluster.wait;\n")
        .cluster_of(2)
        .faulty("cluster barrier", "comes twice");
    bed("barrier.cluster.wait;\n").cluster_of(2).faulty("cluster barrier", "without a barrier.cluster.arrive");
    let missing =
        "setp.eq.u32 %p1, %r3, 0; @%p1 bra OUT;\n".to_owned() + &init(0, 1) + &wait(0, 0) + "OUT:" + CLUSTER_SYNC;
    bed(missing).cluster_of(2).faulty("deadlock", "the cluster's barrier, in block 0");
    bed("setp.lt.u32 %p1, %r0, 5; @%p1 barrier.cluster.arrive.aligned;\nbar.sync 0;\n")
        .cluster_of(2)
        .faulty("missing participants", "");
}

#[test]
fn blocks_that_are_not_there() {
    let read = "mapa.shared::cluster.u32 %r10, %r1, 1; ld.shared::cluster.u32 %r11, [%r10];\n";
    let with = |first: &str, last: &str| {
        let leave = "setp.eq.u32 %p1, %r3, 1; @%p1 bra OUT;\n";
        bed("@%p0 st.shared.u32 [%r1], 4;\n".to_owned() + first + leave + read + "OUT:\n" + last).cluster_of(2)
    };
    with(CLUSTER_SYNC, CLUSTER_SYNC).every();
    with(CLUSTER_SYNC, "").faulty("remote block", "exited");
    // Where it has gone already.
    let late = "setp.eq.u32 %p1, %r3, 1; @%p1 bra OUT; mov.u32 %r12, 0;\n\
        { LOOP: add.u32 %r12, %r12, 1; setp.lt.u32 %p2, %r12, 30000; @%p2 bra LOOP; }\n"
        .to_owned()
        + read
        + "OUT:\n";
    bed("@%p0 st.shared.u32 [%r1], 4;\n".to_owned() + CLUSTER_SYNC + &late)
        .cluster_of(2)
        .faulty_late("remote block", "which has exited");
    // A remote arrival is a visit, too.
    let arrive = init(0, 64)
        + CLUSTER_SYNC
        + "mapa.shared::cluster.u32 %r10, %r2, 1; setp.eq.u32 %p1, %r3, 0;\n\
           @%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r10]; @%p1 bra OUT;\n";
    bed(arrive.clone() + "OUT:\n").cluster_of(2).faulty("remote block", "exited");
    bed(arrive + &wait(0, 0) + "OUT:\n").cluster_of(2).every();

    let outside = "mapa.shared::cluster.u32 %r10, %r1, 5; st.shared::cluster.u32 [%r10], 1;\n";
    bed(outside).cluster_of(2).faulty("remote block", "the cluster has fewer blocks");
    bed(outside).faulty("remote block", "the cluster has fewer blocks");
    let beyond =
        CLUSTER_SYNC.to_owned() + "mapa.shared::cluster.u32 %r10, %r1, 1; st.shared::cluster.u32 [%r10+40000], 1;\n";
    bed(beyond + CLUSTER_SYNC).cluster_of(2).faulty("out of bounds", "shared");
}

#[test]
fn waits_are_for_the_own_block() {
    let body = init(0, 1)
        + CLUSTER_SYNC
        + "mapa.shared::cluster.u32 %r10, %r2, 1; setp.eq.u32 %p1, %r3, 0;\n\
           @%p1 mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r10], 1;\n"
        + CLUSTER_SYNC;
    bed(body).cluster_of(2).faulty("mbarrier", "own block only");
}

/// Block 0 copies to the blocks of a mask; each waits for the bytes at home.
fn multicast(mask: u32, copy: &str, last: &str) -> Bed {
    let body = init(0, 1)
        + CLUSTER_SYNC
        + &format!(
            "mov.u32 %r12, {mask}; shr.u32 %r13, %r12, %r3; and.b32 %r13, %r13, 1; setp.eq.u32 %p1, %r13, 1;\n\
             mov.u32 %r14, 0; cvt.u16.u32 %h0, %r12; @!%p1 bra ISSUE;\n"
        )
        + &expect(0, 256)
        + "ISSUE: setp.eq.u32 %p2, %r3, 0; and.pred %p3, %p2, %p0;\n"
        + copy
        + "@!%p1 bra OUT;\n"
        + &wait(0, 0)
        + "shl.b32 %r12, %r0, 2; add.u32 %r13, %r1, %r12; ld.shared.u32 %r14, [%r13];\nOUT:\n"
        + last
        + &put("%r14");
    let mut test = bed(body).cluster_of(4);
    test.map = Some((Of::Input, map(Element::F32, &[64], &[], &[64])));
    test
}

#[test]
fn one_copy_for_several_blocks() {
    let plain = "@%p3 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d0], 256, \
        [%r2], %h0;\n";
    let tensor = "@%p3 cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster \
        [%r1], [%d2, {%r14}], [%r2], %h0;\n";
    for copy in [plain, tensor] {
        for mask in [0b1111, 0b1010, 0b0001, 0b0110] {
            // A block that has its bytes may leave: nothing more comes.
            for last in [CLUSTER_SYNC, ""] {
                let test = multicast(mask, copy, last);
                let (out, input) = (to_words(&test.every()), to_words(&test.input));
                for rank in 0..4 {
                    let expected = if mask >> rank & 1 == 1 { input[..64].to_vec() } else { vec![0; 64] };
                    assert_eq!(out[64 * rank..][..64], expected, "rank {rank} of {mask:#b}");
                }
            }
        }
        multicast(0b10001, copy, CLUSTER_SYNC).faulty("remote block", "the cluster has fewer blocks");
    }
    // The mbarrier of another block that was not made.
    let test = multicast(0b1111, plain, CLUSTER_SYNC);
    let body =
        test.body.replace("@%p0 mbarrier.init", "setp.lt.u32 %p4, %r3, 3; and.pred %p4, %p4, %p0; @%p4 mbarrier.init");
    bed(body).cluster_of(4).faulty("mbarrier", "it is not initialised");
}

#[test]
fn bytes_for_a_block_that_does_not_wait() {
    let plain = "@%p3 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d0], 256, \
        [%r2], %h0;\n";
    let test = multicast(0b0011, plain, "");
    let leave = "setp.eq.u32 %p4, %r3, 1; @%p4 bra OUT;\n".to_owned() + &wait(0, 0);
    bed(test.body.replace(&wait(0, 0), &leave)).cluster_of(4).faulty_late("unfinished copy", "block [0, 0, 0]");
}

#[test]
fn copies_between_blocks() {
    let forward = |bytes: u32, fence: &str, last: &str| {
        let copy = init(0, 1)
            + CLUSTER_SYNC
            + &fill(bytes)
            + &format!("{fence}{BAR}")
            + &expect(0, bytes)
            + &next("%r1", 2)
            + "mapa.shared::cluster.u32 %r12, %r2, %r11;\n"
            + &format!(
                "@%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r10+8192], [%r1], {bytes}, [%r12];\n"
            )
            + &wait(0, 0);
        bed(copy
            + "add.u32 %r13, %r1, 8192; shl.b32 %r12, %r0, 2; add.u32 %r13, %r13, %r12; ld.shared.u32 %r20, [%r13];\n"
            + last
            + &put("%r20"))
        .cluster_of(2)
    };
    let test = forward(256, FENCE, CLUSTER_SYNC);
    let (out, input) = (to_words(&test.every()), to_words(&test.input));
    assert_eq!(out[..64], input[..64]);
    assert_eq!(out[64..128], input[..64]);
    forward(256, "", CLUSTER_SYNC).faulty("missing proxy fence", "asynchronous read");
    // The source may go before it was read.
    let test = forward(256, FENCE, "");
    let leave = "setp.eq.u32 %p4, %r3, 0; @%p4 bra OUT;\n".to_owned() + &wait(0, 0);
    let body = test.body.replace(&wait(0, 0), &leave) + "OUT:\n";
    bed(body).cluster_of(2).faulty_late("unfinished copy", "");
    // Source and mbarrier of different blocks.
    let test = forward(256, FENCE, CLUSTER_SYNC);
    bed(test.body.replace("256, [%r12]", "256, [%r2]"))
        .cluster_of(2)
        .faulty("remote block", "not the one of the copy's mbarrier");
}

#[test]
fn remote_destinations_of_loads() {
    // Thread 0 of each block loads for the next one.
    let body = init(0, 1)
        + CLUSTER_SYNC
        + &expect(0, 256)
        + &next("%r1", 3)
        + "mapa.shared::cluster.u32 %r12, %r2, %r11; mul.wide.u32 %d12, %r3, 256; add.s64 %d12, %d0, %d12;\n\
           @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%d12], 256, [%r12];\n"
        + &wait(0, 0)
        + "shl.b32 %r12, %r0, 2; add.u32 %r13, %r1, %r12; ld.shared.u32 %r20, [%r13];\n"
        + &put("%r20");
    let test = bed(body).cluster_of(3);
    let (out, input) = (to_words(&test.every()), to_words(&test.input));
    for rank in 0..3 {
        assert_eq!(out[64 * rank..][..64], input[64 * ((rank + 2) % 3)..][..64]);
    }
}

#[test]
fn dependent_launches_are_ordered_anyway() {
    let body = "griddepcontrol.launch_dependents;\ngriddepcontrol.wait;\nmov.u32 %r10, 6;\n".to_owned() + &put("%r10");
    assert_eq!(to_words(&bed(body).every())[0], 6);
}

#[test]
fn several_clusters_do_not_meet() {
    let body = "shl.b32 %r12, %r0, 2; add.u32 %r13, %r1, %r12; mad.lo.u32 %r14, %r4, 100, %r0;\n\
        st.shared.u32 [%r13], %r14;\n"
        .to_owned()
        + CLUSTER_SYNC
        + &next("%r13", 2)
        + "ld.shared::cluster.u32 %r20, [%r10];\n"
        + CLUSTER_SYNC
        + &put("%r20");
    let mut test = bed(body);
    (test.grid, test.cluster) = ([6, 1, 1], [2, 1, 1]);
    let expected: Vec<u32> = (0..384).map(|at| ((at / 64) ^ 1) * 100 + at % 64).collect();
    assert_eq!(to_words(&test.every())[..384], expected);
}

#[test]
fn the_shape_of_a_cluster_is_checked() {
    let refusal = |grid: u32, cluster: u32, directive: &str| {
        let test = bed("");
        let text = test.text().replace("map[128])", &format!("map[128]) {directive}"));
        let mut bench = crate::common::Bench::from_text(&text);
        bench.options = ptx_emu::Options::new(ptx_emu::Architecture::Sm90a);
        (bench.grid, bench.cluster) = ([grid, 1, 1], [cluster, 1, 1]);
        let outcome = bench.launch("k", &[&[0; 8], &[0; 8], &[0; 128]]);
        outcome.err().map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(refusal(4, 2, ".explicitcluster .reqnctapercluster 2, 1, 1 .maxclusterrank 8"), "");
    assert!(refusal(4, 4, ".reqnctapercluster 2, 1, 1").contains("the kernel requires [2, 1, 1]"));
    assert!(refusal(4, 3, "").contains("divides the grid"));
    assert!(refusal(32, 32, "").contains("1 to 16 blocks"));
}
