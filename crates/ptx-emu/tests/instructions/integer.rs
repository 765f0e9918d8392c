//! Integer arithmetic, modelled in 128 bits.

use crate::harness::{Out, any_inputs, compare, compare_on};

/// An integer type: width and sign.
#[derive(Clone, Copy)]
struct Int {
    bits: u32,
    signed: bool,
}

const TYPES: [(&str, Int); 6] = [
    ("u16", Int { bits: 16, signed: false }),
    ("s16", Int { bits: 16, signed: true }),
    ("u32", Int { bits: 32, signed: false }),
    ("s32", Int { bits: 32, signed: true }),
    ("u64", Int { bits: 64, signed: false }),
    ("s64", Int { bits: 64, signed: true }),
];

impl Int {
    fn value(self, raw: u64) -> i128 {
        let unused = 128 - self.bits;
        let shifted = i128::from(raw) << unused;
        if self.signed { shifted >> unused } else { (shifted as u128 >> unused) as i128 }
    }

    fn wrap(self, value: i128) -> u64 {
        (value as u128 & ((1u128 << self.bits) - 1)) as u64
    }

    fn register(self) -> &'static str {
        match self.bits {
            16 => "%h",
            32 => "%r",
            _ => "%d",
        }
    }

    fn out(self) -> Out {
        match self.bits {
            16 => Out::Half,
            32 => Out::Word,
            _ => Out::Long,
        }
    }

    fn min(self) -> i128 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }
}

#[test]
fn two_operands() {
    type Model = fn(i128, i128) -> i128;
    let operations: [(&str, Model); 5] = [
        ("add", |a, b| a + b),
        ("sub", |a, b| a - b),
        ("mul.lo", |a, b| a.wrapping_mul(b)),
        ("min", |a, b| a.min(b)),
        ("max", |a, b| a.max(b)),
    ];
    for (operation, model) in operations {
        for (name, int) in TYPES {
            let r = int.register();
            let instruction = format!("{operation}.{name} {r}0, {r}1, {r}2;");
            compare(&instruction, int.out(), |[a, b, ..]| int.wrap(model(int.value(a), int.value(b))));
        }
    }
}

#[test]
fn high_and_wide_products() {
    for (name, int) in TYPES {
        let r = int.register();
        // A product of two u64 does not fit a signed 128-bit integer, but wraps to the same bits.
        let high = |a: u64, b: u64| {
            let product = int.value(a).wrapping_mul(int.value(b));
            if int.signed { product >> int.bits } else { (product as u128 >> int.bits) as i128 }
        };
        let instruction = format!("mul.hi.{name} {r}0, {r}1, {r}2;");
        compare(&instruction, int.out(), |[a, b, ..]| int.wrap(high(a, b)));
        let instruction = format!("mad.hi.{name} {r}0, {r}1, {r}2, {r}3;");
        compare(&instruction, int.out(), |[a, b, c, _]| int.wrap(high(a, b) + int.value(c)));
        let instruction = format!("mad.lo.{name} {r}0, {r}1, {r}2, {r}3;");
        compare(&instruction, int.out(), |[a, b, c, _]| {
            int.wrap(int.value(a).wrapping_mul(int.value(b)).wrapping_add(int.value(c)))
        });
        if int.bits < 64 {
            let double = Int { bits: int.bits * 2, signed: int.signed };
            let (to, out) = (double.register(), double.out());
            let product = |a: u64, b: u64| int.value(a) * int.value(b);
            let instruction = format!("mul.wide.{name} {to}0, {r}1, {r}2;");
            compare(&instruction, out, |[a, b, ..]| double.wrap(product(a, b)));
            let instruction = format!("mad.wide.{name} {to}0, {r}1, {r}2, {to}3;");
            compare(&instruction, out, |[a, b, c, _]| double.wrap(product(a, b) + double.value(c)));
        }
    }
}

#[test]
fn saturation() {
    let int = Int { bits: 32, signed: true };
    let clamp = |value: i128| int.wrap(value.clamp(i128::from(i32::MIN), i128::from(i32::MAX)));
    compare("add.sat.s32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| clamp(int.value(a) + int.value(b)));
    compare("sub.sat.s32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| clamp(int.value(a) - int.value(b)));
    compare("mad.hi.sat.s32 %r0, %r1, %r2, %r3;", Out::Word, |[a, b, c, _]| {
        clamp(((int.value(a) * int.value(b)) >> 32) + int.value(c))
    });
}

#[test]
fn division() {
    for (name, int) in TYPES {
        let r = int.register();
        let defined = |a: u64, b: u64| {
            let (a, b) = (int.value(a), int.value(b));
            // The smallest number over -1 does not fit; neither the manual nor this test says what comes out.
            (b != 0 && !(int.signed && a == int.min() && b == -1)).then_some((a, b))
        };
        let inputs = any_inputs();
        compare_on(&format!("div.{name} {r}0, {r}1, {r}2;"), int.out(), &inputs, |[a, b, ..]| {
            defined(a, b).map(|(a, b)| int.wrap(a / b))
        });
        compare_on(&format!("rem.{name} {r}0, {r}1, {r}2;"), int.out(), &inputs, |[a, b, ..]| {
            defined(a, b).map(|(a, b)| int.wrap(a % b))
        });
    }
}

#[test]
fn one_operand() {
    for (name, int) in TYPES.into_iter().filter(|(_, int)| int.signed) {
        let r = int.register();
        compare(&format!("abs.{name} {r}0, {r}1;"), int.out(), |[a, ..]| int.wrap(int.value(a).abs()));
        compare(&format!("neg.{name} {r}0, {r}1;"), int.out(), |[a, ..]| int.wrap(-int.value(a)));
    }
}

#[test]
fn sums_of_differences_and_short_products() {
    for (name, int) in TYPES.into_iter().filter(|(_, int)| int.bits == 32) {
        compare(&format!("sad.{name} %r0, %r1, %r2, %r3;"), Out::Word, |[a, b, c, _]| {
            int.wrap((int.value(a) - int.value(b)).abs() + int.value(c))
        });
        let short = Int { bits: 24, signed: int.signed };
        let product = |a: u64, b: u64| short.value(a) * short.value(b);
        compare(&format!("mul24.lo.{name} %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| int.wrap(product(a, b)));
        compare(&format!("mul24.hi.{name} %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| int.wrap(product(a, b) >> 16));
        compare(&format!("mad24.lo.{name} %r0, %r1, %r2, %r3;"), Out::Word, |[a, b, c, _]| {
            int.wrap(product(a, b) + int.value(c))
        });
    }
}
