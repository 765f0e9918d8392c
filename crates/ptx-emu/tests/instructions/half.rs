//! f16 and bf16. Every finite value of the format is in a table; results are looked up as the nearest entry of the
//! exact result in fixed point.

use crate::harness::{Inputs, Out, compare, compare_on, random};

/// An f16 by the definition of the format.
pub fn f16_value(bits: u64) -> f64 {
    value(bits, 10, 15)
}

fn value(bits: u64, fraction_bits: i32, bias: i32) -> f64 {
    let fraction = (bits & ((1 << fraction_bits) - 1)) as f64;
    let field = (bits >> fraction_bits & ((1 << (15 - fraction_bits)) - 1)) as i32;
    let sign = if bits >> 15 & 1 == 1 { -1.0 } else { 1.0 };
    let top = (1 << (15 - fraction_bits)) - 1;
    sign * if field == top {
        if fraction == 0.0 { f64::INFINITY } else { f64::NAN }
    } else if field == 0 {
        fraction * f64::from(1 - bias - fraction_bits).exp2()
    } else {
        (1.0 + fraction * f64::from(-fraction_bits).exp2()) * f64::from(field - bias).exp2()
    }
}

#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    fraction_bits: i32,
    bias: i32,
    infinity: u64,
}

const F16: Format = Format { name: "f16", fraction_bits: 10, bias: 15, infinity: 0x7c00 };
const BF16: Format = Format { name: "bf16", fraction_bits: 7, bias: 127, infinity: 0x7f80 };
const NAN: u64 = 0x7fff;

impl Format {
    fn value(self, bits: u64) -> f64 {
        value(bits & 0xffff, self.fraction_bits, self.bias)
    }

    /// The nearest value of the format, ties to even, given how an exact number compares with any f64.
    fn nearest(self, negative: bool, less_than: impl Fn(f64) -> std::cmp::Ordering) -> u64 {
        // Magnitudes rise with their bits, so a binary search finds the last one that is not above.
        let (mut low, mut high) = (0u64, self.infinity);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if less_than(self.value(middle)).is_lt() { high = middle } else { low = middle }
        }
        let next = if low + 1 == self.infinity {
            // One step beyond the largest number, where infinity begins.
            2.0 * self.value(low) - self.value(low - 1)
        } else {
            self.value(low + 1)
        };
        let half_way = (self.value(low) + next) / 2.0;
        let up = match less_than(half_way) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => low & 1 == 1,
        };
        (if negative { 0x8000 } else { 0 }) | (low + u64::from(up))
    }

    fn round(self, exact: f64) -> u64 {
        if exact.is_nan() {
            return NAN;
        }
        if exact.is_infinite() {
            return self.infinity | if exact < 0.0 { 0x8000 } else { 0 };
        }
        self.nearest(exact.is_sign_negative(), |other| exact.abs().partial_cmp(&other).unwrap())
    }
}

/// Random halves of moderate size in both parts of a word, so that f64 holds sums and products exactly.
fn inputs(format: Format) -> Vec<Inputs> {
    let mut state = 3;
    let mut one = || {
        let raw = random(&mut state);
        let spread = if format.bias == 15 { 31 } else { 24 };
        let base = if format.bias == 15 { 0 } else { 116 };
        let field = base + random(&mut state) % spread;
        raw & 0x8000 | field << format.fraction_bits | raw & ((1 << format.fraction_bits) - 1)
    };
    (0..4096).map(|_| std::array::from_fn(|_| one() | one() << 16)).collect()
}

/// Applies a model to both halves.
fn both(model: impl Fn(u64) -> u64) -> u64 {
    model(0) & 0xffff | (model(16) & 0xffff) << 16
}

#[test]
fn sums_products_and_fused_products() {
    for format in [F16, BF16] {
        let (name, inputs) = (format.name, inputs(format));
        let v = |x: u64| format.value(x);
        type Model = fn(f64, f64) -> f64;
        let operations: [(&str, Model); 3] = [("add", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b)];
        for (operation, model) in operations {
            compare_on(&format!("{operation}.{name} %h0, %h1, %h2;"), Out::Half, &inputs, |[a, b, ..]| {
                Some(format.round(model(v(a), v(b))))
            });
            compare_on(&format!("{operation}.rn.{name}x2 %r0, %r1, %r2;"), Out::Word, &inputs, |[a, b, ..]| {
                Some(both(|shift| format.round(model(v(a >> shift), v(b >> shift)))))
            });
        }
        // The sum may need more bits than f64 has: compare through the remainder of the subtraction instead.
        let fused = |a: f64, b: f64, c: f64| {
            let product = a * b;
            let sum = product + c;
            if sum.is_nan() || sum.is_infinite() {
                return format.round(sum);
            }
            let (large, small) = if product.abs() >= c.abs() { (product, c) } else { (c, product) };
            let rest = small - (sum - large);
            let sign = if sum < 0.0 { -1.0 } else { 1.0 };
            format.nearest(sum.is_sign_negative(), |other| {
                sum.abs().partial_cmp(&other).unwrap().then((rest * sign).partial_cmp(&0.0).unwrap())
            })
        };
        compare_on(&format!("fma.rn.{name} %h0, %h1, %h2, %h3;"), Out::Half, &inputs, |[a, b, c, _]| {
            Some(fused(v(a), v(b), v(c)))
        });
        compare_on(&format!("fma.rn.{name}x2 %r0, %r1, %r2, %r3;"), Out::Word, &inputs, |[a, b, c, _]| {
            Some(both(|s| fused(v(a >> s), v(b >> s), v(c >> s))))
        });
        compare_on(&format!("fma.rn.relu.{name}x2 %r0, %r1, %r2, %r3;"), Out::Word, &inputs, |[a, b, c, _]| {
            Some(both(|s| {
                let plain = fused(v(a >> s), v(b >> s), v(c >> s));
                if plain & 0x8000 != 0 { 0 } else { plain }
            }))
        });
    }
    compare_on("add.sat.f16 %h0, %h1, %h2;", Out::Half, &inputs(F16), |[a, b, ..]| {
        let sum = f16_value(a) + f16_value(b);
        Some(if sum.is_nan() || sum <= 0.0 { 0 } else { F16.round(sum.min(1.0)) })
    });
    compare_on("mul.ftz.f16 %h0, %h1, %h2;", Out::Half, &inputs(F16), |[a, b, ..]| {
        let flush = |x: u64| if x & 0x7c00 == 0 { x & 0x8000 } else { x };
        Some(flush(F16.round(f16_value(flush(a)) * f16_value(flush(b)))))
    });
}

#[test]
fn extremes_and_signs() {
    for format in [F16, BF16] {
        let name = format.name;
        let order = |x: u64| if x & 0x8000 != 0 { -((x & 0x7fff) as i64) - 1 } else { (x & 0x7fff) as i64 };
        for (operation, larger) in [("min", false), ("max", true)] {
            let pick = |a: u64, b: u64| {
                let (a, b) = (a & 0xffff, b & 0xffff);
                match (format.value(a).is_nan(), format.value(b).is_nan()) {
                    (true, true) => NAN,
                    (true, false) => b,
                    (false, true) => a,
                    _ => {
                        if (order(a) > order(b)) == larger {
                            a
                        } else {
                            b
                        }
                    }
                }
            };
            compare(&format!("{operation}.{name} %h0, %h1, %h2;"), Out::Half, |[a, b, ..]| pick(a, b));
            compare(&format!("{operation}.NaN.{name}x2 %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| {
                both(|s| {
                    let nan = format.value(a >> s).is_nan() || format.value(b >> s).is_nan();
                    if nan { NAN } else { pick(a >> s, b >> s) }
                })
            });
        }
        compare(&format!("neg.{name}x2 %r0, %r1;"), Out::Word, |[a, ..]| (a ^ 0x8000_8000) & 0xffff_ffff);
        compare(&format!("abs.{name}x2 %r0, %r1;"), Out::Word, |[a, ..]| a & 0x7fff_7fff);
    }
}

#[test]
fn functions() {
    compare_on("ex2.approx.f16 %h0, %h1;", Out::Half, &inputs(F16), |[a, ..]| Some(F16.round(f16_value(a).exp2())));
    compare_on("tanh.approx.f16x2 %r0, %r1;", Out::Word, &inputs(F16), |[a, ..]| {
        Some(both(|s| F16.round(f16_value(a >> s).tanh())))
    });
    compare_on("tanh.approx.bf16 %h0, %h1;", Out::Half, &inputs(BF16), |[a, ..]| {
        Some(BF16.round(BF16.value(a).tanh()))
    });
}

#[test]
fn conversions_from_single_precision() {
    for format in [F16, BF16] {
        let name = format.name;
        let round = |bits: u64| format.round(f64::from(f32::from_bits(bits as u32)));
        compare(&format!("cvt.rn.{name}.f32 %h0, %r1;"), Out::Half, |[a, ..]| round(a));
        compare(&format!("cvt.rn.{name}x2.f32 %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| round(a) << 16 | round(b));
        compare(&format!("cvt.f32.{name} %r0, %h1;"), Out::Word, |[a, ..]| super::float::bits(format.value(a) as f32));
        compare(&format!("cvt.rn.relu.{name}.f32 %h0, %r1;"), Out::Half, |[a, ..]| {
            let plain = round(a);
            if plain & 0x8000 != 0 { 0 } else { plain }
        });
        compare(&format!("cvt.rz.{name}.f32 %h0, %r1;"), Out::Half, |[a, ..]| {
            // Towards zero: the nearest, or one below it when that is too large.
            let exact = f64::from(f32::from_bits(a as u32));
            let near = round(a);
            if exact.is_nan() || exact.is_infinite() {
                return near;
            }
            if near & 0x7fff == format.infinity || format.value(near).abs() > exact.abs() { near - 1 } else { near }
        });
    }
}
