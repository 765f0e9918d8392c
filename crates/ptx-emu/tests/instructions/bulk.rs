//! Plain bulk copies and reductions.

use crate::hopper::*;

#[test]
fn loads_of_every_size() {
    for bytes in [16, 48, 128, 1008, 8192] {
        let test = bed(init(0, 1) + &expect(0, bytes) + &load(bytes) + &wait(0, 0) + &dump(bytes));
        let out = test.every();
        let (copied, rest) = out.split_at(bytes as usize);
        assert!(copied == &test.input[..bytes as usize] && rest.iter().all(|byte| *byte == 0xaa), "{bytes}");
    }
}

#[test]
fn loads_of_several_lanes_and_offsets() {
    // Four lanes load 32 bytes each, in reverse order; the destination may also be spelled `shared::cta`.
    let body = init(0, 1)
        + &expect(0, 128)
        + "setp.lt.u32 %p1, %r0, 4; shl.b32 %r10, %r0, 5; add.u32 %r11, %r1, %r10; sub.u32 %r10, 96, %r10;\n\
           cvt.u64.u32 %d10, %r10; add.s64 %d10, %d0, %d10;\n\
           @%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r11+16], [%d10+256], 32, [%r2];\n"
        + &wait(0, 0)
        + "add.u32 %r1, %r1, 16;\n"
        + &dump(128);
    let test = bed(body);
    let expected: Vec<u8> = (0..4).rev().flat_map(|k| test.input[256 + 32 * k..][..32].to_vec()).collect();
    assert_eq!(test.every()[..128], expected);
}

#[test]
fn a_hint_changes_nothing() {
    let body = init(0, 1)
        + &expect(0, 64)
        + "mov.u64 %d10, 0x12f0000000000000; @%p0 cp.async.bulk.prefetch.L2.global [%d0], 64;\n\
           @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r1], [%d0], 64, [%r2], %d10;\n"
        + &wait(0, 0)
        + FENCE
        + BAR
        + "@%p0 cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%d1], [%r1], 64, %d10;\n"
        + COMMIT
        + WAIT_GROUP;
    let test = bed(body);
    assert_eq!(test.every()[..64], test.input[..64]);
}

#[test]
fn stores_of_every_size() {
    for bytes in [16, 48, 1008, 8192] {
        let test = bed(fill(bytes) + FENCE + BAR + &store(bytes));
        let out = test.every();
        let (copied, rest) = out.split_at(bytes as usize);
        assert!(copied == &test.input[..bytes as usize] && rest.iter().all(|byte| *byte == 0xaa), "{bytes}");
    }
}

#[test]
fn a_copy_of_a_copy_needs_no_proxy_fence() {
    // Written and read by the async proxy, with the wait between the two.
    let test = bed(init(0, 1) + &expect(0, 512) + &load(512) + &wait(0, 0) + &store(512));
    assert_eq!(test.every()[..512], test.input[..512]);
}

#[test]
fn groups_complete_in_order() {
    // Three groups of a lane, of which all but the last have read their source when it is overwritten.
    let group =
        |at: u32| format!("@%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1+{at}], [%r1+{at}], 64;\n{COMMIT}");
    let over = |at: u32| format!("@%p0 st.shared.u32 [%r1+{at}], 5;\n");
    let body = |waited: u32, then: String| {
        bed(fill(192)
            + FENCE
            + BAR
            + &[0, 64, 128].map(group).concat()
            + &format!("@%p0 cp.async.bulk.wait_group.read {waited};\n{then}")
            + WAIT_GROUP)
    };
    let test = body(1, over(0) + &over(64));
    assert_eq!(test.every()[..192], test.input[..192]);
    body(1, over(128)).faulty("asynchronous copy in flight", "asynchronous read of it");
    body(2, over(64)).faulty("asynchronous copy in flight", "asynchronous read of it");
    body(0, over(128)).every();
    // Groups are those of a lane: the wait of another lane covers nothing.
    let other = body(0, String::new()).body.replace("@%p0 cp.async.bulk.wait_group", "@!%p0 cp.async.bulk.wait_group");
    bed(other).faulty("unfinished copy", "before a wait covers");
}

/// Elements as the 16 first values of each type.
struct Reduction {
    ty: &'static str,
    operation: &'static str,
    bytes: usize,
    model: fn(u64, u64) -> u64,
}

fn half(value: f32, bfloat: bool) -> u64 {
    let bits = value.to_bits();
    u64::from(if bfloat || value == 0.0 {
        bits >> 16
    } else {
        bits >> 16 & 0x8000 | ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff
    })
}

fn of_half(bits: u64, bfloat: bool) -> f32 {
    if bfloat { f32::from_bits((bits as u32) << 16) } else { super::half::f16_value(bits) as f32 }
}

/// Name in a plain copy, bytes, operation, model. Floats are small integers, so that all sums are exact.
fn reductions() -> Vec<Reduction> {
    let mut all = Vec::new();
    let mut add = |ty, bytes, operation, model| all.push(Reduction { ty, operation, bytes, model });
    add("u32", 4, "add", |a, b| u64::from((a as u32).wrapping_add(b as u32)));
    add("s32", 4, "add", |a, b| u64::from((a as u32).wrapping_add(b as u32)));
    add("u64", 8, "add", u64::wrapping_add);
    add("u32", 4, "min", |a, b| a.min(b));
    add("u32", 4, "max", |a, b| a.max(b));
    add("s32", 4, "min", |a, b| u64::from((a as i32).min(b as i32) as u32));
    add("s32", 4, "max", |a, b| u64::from((a as i32).max(b as i32) as u32));
    add("u64", 8, "min", |a, b| a.min(b));
    add("u64", 8, "max", |a, b| a.max(b));
    add("s64", 8, "min", |a, b| (a as i64).min(b as i64) as u64);
    add("s64", 8, "max", |a, b| (a as i64).max(b as i64) as u64);
    add("b32", 4, "and", |a, b| a & b);
    add("b32", 4, "or", |a, b| a | b);
    add("b32", 4, "xor", |a, b| a ^ b);
    add("b64", 8, "and", |a, b| a & b);
    add("b64", 8, "or", |a, b| a | b);
    add("b64", 8, "xor", |a, b| a ^ b);
    add("u32", 4, "inc", |a, b| if a >= b { 0 } else { a + 1 });
    add("u32", 4, "dec", |a, b| if a == 0 || a > b { b } else { a - 1 });
    add("f32", 4, "add", |a, b| u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits()));
    add("f64", 8, "add", |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits());
    add("f16", 2, "add.noftz", |a, b| half(of_half(a, false) + of_half(b, false), false));
    add("f16", 2, "min", |a, b| half(of_half(a, false).min(of_half(b, false)), false));
    add("f16", 2, "max", |a, b| half(of_half(a, false).max(of_half(b, false)), false));
    add("bf16", 2, "add.noftz", |a, b| half(of_half(a, true) + of_half(b, true), true));
    add("bf16", 2, "min", |a, b| half(of_half(a, true).min(of_half(b, true)), true));
    add("bf16", 2, "max", |a, b| half(of_half(a, true).max(of_half(b, true)), true));
    all
}

/// An element of that type; integers of all sizes, floats that are small integers.
pub fn element(ty: &str, seed: u64) -> u64 {
    let mut state = seed;
    let random = crate::harness::random(&mut state);
    let small = (random % 41) as f32 - 20.0;
    match ty {
        "f16" => half(small, false),
        "bf16" => half(small, true),
        "f32" => u64::from(small.to_bits()),
        "f64" => f64::from(small).to_bits(),
        "u64" | "s64" | "b64" => random,
        _ => random & 0xffff_ffff,
    }
}

#[test]
fn reductions_into_global_memory() {
    const BYTES: usize = 256;
    for Reduction { ty, operation, bytes, model } in reductions() {
        let body = fill(BYTES as u32)
            + FENCE
            + BAR
            + &format!(
                "@%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation}.{ty} [%d1], [%r1], {BYTES};\n"
            )
            + COMMIT
            + WAIT_GROUP;
        let encode = |seed: u64| -> Vec<u8> {
            let elements = (0..(BYTES / bytes) as u64).map(|at| element(ty, seed + at));
            elements.flat_map(|element| element.to_le_bytes()[..bytes].to_vec()).collect()
        };
        let mut test = bed(body);
        (test.input, test.output) = (encode(1000), encode(5000));
        let decode = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let out = test.every();
        for at in (0..BYTES).step_by(bytes) {
            let (old, new) = (decode(&test.output[at..at + bytes]), decode(&test.input[at..at + bytes]));
            let found = decode(&out[at..at + bytes]);
            let zero = ["f16", "bf16"].contains(&ty) && found & 0x7fff == 0 && model(old, new) & 0x7fff == 0;
            assert!(zero || found == model(old, new), "{operation}.{ty} of {old:#x} and {new:#x}: {found:#x}");
        }
    }
}

#[test]
fn blocks_may_reduce_into_the_same_place() {
    let mut test = bed(fill(128)
        + FENCE
        + BAR
        + "@%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d1], [%r1], 128;\n"
        + COMMIT
        + WAIT_GROUP);
    test.grid = [5, 1, 1];
    let expected: Vec<u32> =
        (0..32).map(|at| to_words(&test.input)[at].wrapping_mul(5).wrapping_add(0xaaaa_aaaa)).collect();
    assert_eq!(to_words(&test.every())[..32], expected);
    // A plain store into the same place is a race.
    test.body = fill(128) + FENCE + BAR + &store(128);
    test.faulty("global memory race", "");
}

#[test]
fn undefined_bytes_stay_undefined() {
    let copied = init(0, 1) + &expect(0, 128) + &load(128) + &wait(0, 0);
    let read = |at: u32, ty: &str| format!("ld.shared.{ty} %r10, [%r1+{at}];\n");
    for (unwritten, at, ty, is_faulty) in [
        (64..68, 64, "u32", true),
        (64..68, 60, "u32", false),
        (64..68, 68, "u32", false),
        (65..66, 64, "u32", true),
        (65..66, 65, "u8", true),
        (65..66, 64, "u8", false),
        (65..66, 66, "u16", false),
    ] {
        let mut test = bed(copied.clone() + &read(at, ty));
        test.unwritten = unwritten;
        if is_faulty {
            test.faulty("uninitialized memory", "shared");
        } else {
            test.every();
        }
    }
    // On the way back as well.
    let mut test = bed(copied + &store(128));
    test.unwritten = 100..101;
    test.faulty("uninitialized memory", "shared");
    // What is reduced into must be there.
    let body = fill(128)
        + FENCE
        + BAR
        + "@%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d0+256], [%r1], 128;\n"
        + COMMIT
        + WAIT_GROUP;
    let mut test = bed(body);
    test.every();
    test.unwritten = 300..304;
    test.faulty("uninitialized memory", "global");
}
