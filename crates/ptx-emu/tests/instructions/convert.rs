//! Conversions of integers, and between integers and floats.

use super::float::{bits, float};
use crate::harness::{Out, any_inputs, compare, compare_on};

fn integer(ty: &str, raw: u64) -> i128 {
    match ty {
        "u8" => i128::from(raw as u8),
        "s8" => i128::from(raw as i8),
        "u16" => i128::from(raw as u16),
        "s16" => i128::from(raw as i16),
        "u32" => i128::from(raw as u32),
        "s32" => i128::from(raw as i32),
        "u64" => i128::from(raw),
        _ => i128::from(raw as i64),
    }
}

fn limits(ty: &str) -> (i128, i128) {
    let width: u32 = ty[1..].parse().unwrap();
    if ty.starts_with('u') { (0, (1 << width) - 1) } else { (-(1 << (width - 1)), (1 << (width - 1)) - 1) }
}

/// The register for a type, where its result is found, and the bits of that register.
fn register(ty: &str) -> (&'static str, Out, u32) {
    match ty {
        "u8" | "s8" | "u32" | "s32" => ("%r", Out::Word, 32),
        "u16" | "s16" => ("%h", Out::Half, 16),
        _ => ("%d", Out::Long, 64),
    }
}

const INTEGERS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];

#[test]
fn between_integers() {
    for from in INTEGERS {
        for to in INTEGERS {
            if from == to {
                continue;
            }
            let (source, ..) = register(from);
            let (target, out, width) = register(to);
            let keep = |value: i128| (value as u128 & ((1u128 << width) - 1)) as u64;
            // The low bits of the target's width, extended to the register.
            compare(&format!("cvt.{to}.{from} {target}0, {source}1;"), out, |[a, ..]| {
                keep(integer(to, integer(from, a) as u64))
            });
            compare(&format!("cvt.sat.{to}.{from} {target}0, {source}1;"), out, |[a, ..]| {
                let (low, high) = limits(to);
                keep(integer(from, a).clamp(low, high))
            });
        }
    }
}

#[test]
fn registers_wider_than_the_type() {
    compare("cvt.s64.s32 %d0, %d1;", Out::Long, |[a, ..]| a as i32 as u64);
    compare("cvt.u32.u8 %r0, %d1;", Out::Word, |[a, ..]| a & 0xff);
    compare("cvt.s16.s8 %r0, %r1;", Out::Word, |[a, ..]| u64::from(a as i8 as u32));
    compare("cvt.u16.u8 %r0, %h1;", Out::Word, |[a, ..]| a & 0xff);
}

#[test]
fn floats_to_integers() {
    type Whole = fn(f64) -> f64;
    let modes: [(&str, Whole); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for (mode, whole) in modes {
        for to in ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"] {
            let (target, out, width) = register(to);
            let model = |value: f64| {
                let (low, high) = limits(to);
                if value.is_nan() {
                    return if width == 64 { 1 << 63 } else { 0 };
                }
                ((whole(value) as i128).clamp(low, high) as u128 & ((1u128 << width) - 1)) as u64
            };
            compare(&format!("cvt.{mode}.{to}.f32 {target}0, %r1;"), out, |[a, ..]| model(f64::from(float(a))));
            compare(&format!("cvt.{mode}.{to}.f64 {target}0, %d1;"), out, |[a, ..]| model(f64::from_bits(a)));
            compare(&format!("cvt.{mode}.{to}.f16 {target}0, %h1;"), out, |[a, ..]| model(super::half::f16_value(a)));
        }
        compare(&format!("cvt.{mode}.f32.f32 %r0, %r1;"), Out::Word, |[a, ..]| bits(whole(f64::from(float(a))) as f32));
    }
}

#[test]
fn integers_to_floats() {
    for from in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        let (source, ..) = register(from);
        compare(&format!("cvt.rn.f32.{from} %r0, {source}1;"), Out::Word, |[a, ..]| bits(integer(from, a) as f32));
        compare(&format!("cvt.rn.f64.{from} %d0, {source}1;"), Out::Long, |[a, ..]| {
            (integer(from, a) as f64).to_bits()
        });
        for (mode, up) in [("rz", false), ("rp", true)] {
            compare(&format!("cvt.{mode}.f32.{from} %r0, {source}1;"), Out::Word, |[a, ..]| {
                let exact = integer(from, a);
                let near = exact as f32;
                let moved = if up {
                    if (near as i128) < exact { near.next_up() } else { near }
                } else if (near as i128).abs() > exact.abs() {
                    f32::from_bits(near.to_bits() - 1)
                } else {
                    near
                };
                bits(moved)
            });
        }
    }
}

#[test]
fn between_floats() {
    compare("cvt.f64.f32 %d0, %r1;", Out::Long, |[a, ..]| {
        let value = f64::from(float(a));
        if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() }
    });
    compare("cvt.rn.f32.f64 %r0, %d1;", Out::Word, |[a, ..]| bits(f64::from_bits(a) as f32));
    compare("cvt.sat.f32.f32 %r0, %r1;", Out::Word, |[a, ..]| {
        let value = float(a);
        if value.is_nan() || value <= 0.0 { 0 } else { bits(value.min(1.0)) }
    });
    // tf32 keeps ten fraction bits; ties away from zero are one addition to the bits.
    compare_on("cvt.rna.tf32.f32 %r0, %r1;", Out::Word, &any_inputs(), |[a, ..]| {
        let value = float(a);
        (value.abs() < f32::MAX / 2.0).then_some((u64::from(value.to_bits()) + 0x1000) & 0xffff_e000)
    });
}
