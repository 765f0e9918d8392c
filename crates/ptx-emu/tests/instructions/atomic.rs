//! Atomics on shared and global memory: one word per thread, so that the old and the new value are known.

use super::float::{bits, float};
use crate::harness::{Out, compare};

/// Stores `%X1` to the thread's own place, applies the atomic with `%X2` (and `%X3`), returns old or new value.
fn program(operation: &str, width: u32, register: &str, extra: &str, new: bool) -> String {
    let bytes = width / 8;
    let value = if new { format!("ld.shared.b{width} {register}0, [%r6];") } else { String::new() };
    let old = if new { format!("{register}5") } else { format!("{register}0") };
    format!(
        "{{ .shared .align 8 .b8 places[{}]; mov.u32 %r5, %tid.x; mov.u32 %r6, places; \
         mad.lo.u32 %r6, %r5, {bytes}, %r6; st.shared.b{width} [%r6], {register}1; \
         atom.shared.{operation} {old}, [%r6], {register}2{extra}; {value} }}",
        bytes * 128
    )
}

#[test]
fn integer_operations() {
    type Model = fn(u32, u32) -> u32;
    let operations: [(&str, Model); 12] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
        ("exch.b32", |_, b| b),
        ("min.u32", |a, b| if a < b { a } else { b }),
        ("max.u32", |a, b| if a > b { a } else { b }),
        ("min.s32", |a, b| if (a as i32) < b as i32 { a } else { b }),
        ("max.s32", |a, b| if a as i32 > b as i32 { a } else { b }),
        ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
    ];
    for (name, model) in operations {
        compare(&program(name, 32, "%r", "", false), Out::Word, |[a, ..]| a & 0xffff_ffff);
        compare(&program(name, 32, "%r", "", true), Out::Word, |[a, b, ..]| u64::from(model(a as u32, b as u32)));
    }
    type Long = fn(u64, u64) -> u64;
    let longs: [(&str, Long); 5] = [
        ("add.u64", u64::wrapping_add),
        ("exch.b64", |_, b| b),
        ("min.s64", |a, b| if (a as i64) < b as i64 { a } else { b }),
        ("max.u64", |a, b| if a > b { a } else { b }),
        ("xor.b64", |a, b| a ^ b),
    ];
    for (name, model) in longs {
        compare(&program(name, 64, "%d", "", true), Out::Long, |[a, b, ..]| model(a, b));
    }
}

#[test]
fn compare_and_swap() {
    // Half of the threads compare with the right value.
    let swap = program("cas.b32", 32, "%r", ", %r3", true);
    compare(&swap, Out::Word, |[a, b, c, _]| (if a as u32 == b as u32 { c } else { a }) & 0xffff_ffff);
    let equal = swap.replace("[%r6], %r2", "[%r6], %r1");
    compare(&equal, Out::Word, |[_, _, c, _]| c & 0xffff_ffff);
}

#[test]
fn float_operations() {
    compare(&program("add.f32", 32, "%r", "", true), Out::Word, |[a, b, ..]| bits(float(a) + float(b)));
    compare(&program("add.f64", 64, "%d", "", true), Out::Long, |[a, b, ..]| {
        let sum = f64::from_bits(a) + f64::from_bits(b);
        if sum.is_nan() { 0x7fff_ffff_ffff_ffff } else { sum.to_bits() }
    });
    // Halves with exact sums: small whole numbers.
    let halves = "and.b32 %r1, %r1, 0; mov.b32 %r1, 0x40003c00; mov.b32 %r2, 0x3c004200; ";
    let sum = program("add.noftz.f16x2", 32, "%r", "", true);
    compare(&format!("{halves}{sum}"), Out::Word, |_| 0x4200_4400);
}

#[test]
fn global_reductions_add_up() {
    let bench = crate::common::Bench::from_text(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 sum) {\n\
         .reg .b64 %d<3>; .reg .b32 %r<3>;\nld.param.u64 %d1, [sum];\nmov.u32 %r1, %tid.x;\n\
         red.global.add.u32 [%d1], %r1;\natom.global.gpu.relaxed.max.u32 %r2, [%d1+4], %r1;\n\
         cvta.to.global.u64 %d2, %d1;\nred.add.f32 [%d2+8], 0f3F800000;\nret; }",
    );
    let bench = bench.threads(96).blocks(5);
    let sum = bench.words(&[0, 0, 0]);
    bench.clean("k", &[sum]);
    assert_eq!(bench.read_words(sum, 3), [5 * 96 * 95 / 2, 95, 480f32.to_bits()]);
}
