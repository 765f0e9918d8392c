//! Comparison and selection.

use crate::harness::{Out, any_inputs, compare, compare_on};

/// Whether a comparison holds, given the order of the operands.
fn holds(comparison: &str, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::*;
    match comparison {
        "eq" => order == Some(Equal),
        "ne" => matches!(order, Some(Less | Greater)),
        "lt" | "lo" => order == Some(Less),
        "le" | "ls" => matches!(order, Some(Less | Equal)),
        "gt" | "hi" => order == Some(Greater),
        "ge" | "hs" => matches!(order, Some(Greater | Equal)),
        "num" => order.is_some(),
        "nan" => order.is_none(),
        unordered => order.is_none() || holds(&unordered[..2], order),
    }
}

#[test]
fn integers() {
    for comparison in ["eq", "ne", "lt", "le", "gt", "ge"] {
        let check = |ty: &str, r: &str, order: fn(u64, u64) -> std::cmp::Ordering| {
            let instruction = format!("setp.{comparison}.{ty} %p0|%p5, {r}1, {r}2;");
            compare(
                &instruction,
                Out::Predicate,
                |[a, b, ..]| {
                    if holds(comparison, Some(order(a, b))) { 1 } else { 2 }
                },
            );
        };
        check("u16", "%h", |a, b| (a as u16).cmp(&(b as u16)));
        check("s16", "%h", |a, b| (a as i16).cmp(&(b as i16)));
        check("u32", "%r", |a, b| (a as u32).cmp(&(b as u32)));
        check("s32", "%r", |a, b| (a as i32).cmp(&(b as i32)));
        check("u64", "%d", |a, b| a.cmp(&b));
        check("s64", "%d", |a, b| (a as i64).cmp(&(b as i64)));
    }
    for comparison in ["lo", "ls", "hi", "hs"] {
        compare(&format!("setp.{comparison}.u32 %p0, %r1, %r2;"), Out::Predicate, |[a, b, ..]| {
            u64::from(holds(comparison, Some((a as u32).cmp(&(b as u32)))))
        });
    }
}

#[test]
fn floats() {
    let all = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];
    for comparison in all {
        compare(&format!("setp.{comparison}.f32 %p0, %r1, %r2;"), Out::Predicate, |[a, b, ..]| {
            u64::from(holds(comparison, f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32))))
        });
        compare(&format!("setp.{comparison}.f64 %p0, %d1, %d2;"), Out::Predicate, |[a, b, ..]| {
            u64::from(holds(comparison, f64::from_bits(a).partial_cmp(&f64::from_bits(b))))
        });
        let flush = |bits: u64| {
            let value = f32::from_bits(bits as u32);
            if value.is_subnormal() { 0.0 } else { value }
        };
        compare(&format!("setp.{comparison}.ftz.f32 %p0, %r1, %r2;"), Out::Predicate, |[a, b, ..]| {
            u64::from(holds(comparison, flush(a).partial_cmp(&flush(b))))
        });
        // Halves of packed registers have a predicate each.
        compare(&format!("setp.{comparison}.f16x2 %p0|%p5, %r1, %r2;"), Out::Predicate, |[a, b, ..]| {
            let order = |shift: u32| {
                let (x, y) = (super::half::f16_value(a >> shift), super::half::f16_value(b >> shift));
                u64::from(holds(comparison, x.partial_cmp(&y)))
            };
            order(0) | order(16) << 1
        });
    }
}

#[test]
fn combined_with_a_predicate() {
    type Model = fn(u64, u64) -> u64;
    let combine: [(&str, Model); 3] = [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    for (name, model) in combine {
        for (negation, flip) in [("", 0), ("!", 1)] {
            let instruction = format!("setp.lt.{name}.u32 %p0|%p5, %r1, %r2, {negation}%p3;");
            compare(&instruction, Out::Predicate, |[a, b, c, _]| {
                let (less, third) = (u64::from((a as u32) < b as u32), c & 1 ^ flip);
                model(less, third) | model(1 - less, third) << 1
            });
        }
    }
}

#[test]
fn set_gives_a_number() {
    compare(
        "set.lt.u32.s32 %r0, %r1, %r2;",
        Out::Word,
        |[a, b, ..]| {
            if (a as i32) < b as i32 { 0xffff_ffff } else { 0 }
        },
    );
    compare("set.gt.f32.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| {
        if f32::from_bits(a as u32) > f32::from_bits(b as u32) { u64::from(1.0f32.to_bits()) } else { 0 }
    });
}

#[test]
fn selection() {
    compare("selp.b16 %h0, %h1, %h2, %p3;", Out::Half, |[a, b, c, _]| (if c & 1 == 1 { a } else { b }) & 0xffff);
    compare("selp.b32 %r0, %r1, %r2, %p3;", Out::Word, |[a, b, c, _]| (if c & 1 == 1 { a } else { b }) & 0xffff_ffff);
    compare("selp.f64 %d0, %d1, %d2, %p3;", Out::Long, |[a, b, c, _]| if c & 1 == 1 { a } else { b });
    compare("slct.b32.s32 %r0, %r1, %r2, %r3;", Out::Word, |[a, b, c, _]| {
        (if c as i32 >= 0 { a } else { b }) & 0xffff_ffff
    });
    compare_on("slct.b64.f32 %d0, %d1, %d2, %r3;", Out::Long, &any_inputs(), |[a, b, c, _]| {
        let selector = f32::from_bits(c as u32);
        (!selector.is_nan()).then_some(if selector >= 0.0 { a } else { b })
    });
}
