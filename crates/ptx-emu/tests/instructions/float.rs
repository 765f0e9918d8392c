//! Single and double precision. Directed rounding is modelled in fixed point, where everything is exact.

use crate::harness::{Inputs, Out, compare, compare_on, execute, random};
use ptx_emu::{Architecture, Numerics, Options};

const NAN: u64 = 0x7fff_ffff;

pub fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub fn bits(value: f32) -> u64 {
    if value.is_nan() { NAN } else { u64::from(value.to_bits()) }
}

/// Fraction bits of the fixed-point model.
const SCALE: i32 = 100;

/// An f32 of moderate size as a fixed-point number.
fn fixed(value: f32) -> i128 {
    let raw = value.to_bits();
    if value == 0.0 {
        return 0;
    }
    let exponent = (raw >> 23 & 255) as i32 - 150 + SCALE;
    let magnitude = i128::from(raw & 0x7f_ffff | 0x80_0000);
    let shifted = if exponent >= 0 { magnitude << exponent } else { magnitude >> -exponent };
    if value < 0.0 { -shifted } else { shifted }
}

/// A fixed-point number rounded to f32 by looking at the neighbours of an estimate.
fn round(exact: i128, mode: &str) -> f32 {
    let estimate = (exact as f64 * f64::from(-SCALE).exp2()) as f32;
    let near = [estimate.next_down(), estimate, estimate.next_up()];
    let below = near.into_iter().rfind(|f| fixed(*f) <= exact).unwrap();
    let above = near.into_iter().find(|f| fixed(*f) >= exact).unwrap();
    match mode {
        "rm" => below,
        "rp" => above,
        "rz" => {
            if exact < 0 {
                above
            } else {
                below
            }
        }
        _ => {
            let (down, up) = (exact - fixed(below), fixed(above) - exact);
            if down < up || down == up && below.to_bits() & 1 == 0 { below } else { above }
        }
    }
}

/// Floats between 2^-8 and 2^8, many with few bits so that ties and exact results are common.
fn moderate() -> Vec<Inputs> {
    let mut state = 5;
    let mut one = || {
        let raw = random(&mut state);
        let kept = 0x7f_ffff << (random(&mut state) % 24) & 0x7f_ffff;
        let exponent = 119 + random(&mut state) % 16;
        raw & 0x8000_0000 | exponent << 23 | raw & kept
    };
    (0..4096).map(|_| [one(), one(), one(), 0]).collect()
}

#[test]
fn nearest_even() {
    compare("add.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| bits(float(a) + float(b)));
    compare("add.rn.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| bits(float(a) + float(b)));
    compare("sub.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| bits(float(a) - float(b)));
    compare("mul.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| bits(float(a) * float(b)));
    compare("div.rn.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| bits(float(a) / float(b)));
    compare("fma.rn.f32 %r0, %r1, %r2, %r3;", Out::Word, |[a, b, c, _]| bits(float(a).mul_add(float(b), float(c))));
    compare("rcp.rn.f32 %r0, %r1;", Out::Word, |[a, ..]| bits(1.0 / float(a)));
    compare("sqrt.rn.f32 %r0, %r1;", Out::Word, |[a, ..]| bits(float(a).sqrt()));
}

#[test]
fn every_rounding_mode() {
    let inputs = moderate();
    for mode in ["rn", "rz", "rm", "rp"] {
        compare_on(&format!("add.{mode}.f32 %r0, %r1, %r2;"), Out::Word, &inputs, |[a, b, ..]| {
            let exact = fixed(float(a)) + fixed(float(b));
            (exact != 0).then(|| bits(round(exact, mode)))
        });
        compare_on(&format!("sub.{mode}.f32 %r0, %r1, %r2;"), Out::Word, &inputs, |[a, b, ..]| {
            let exact = fixed(float(a)) - fixed(float(b));
            (exact != 0).then(|| bits(round(exact, mode)))
        });
        // Products are exact in f64, whose fixed-point form keeps all their bits here.
        let product = |a: u64, b: u64| {
            let significand = |v: u64| i128::from(v & 0x7f_ffff | 0x80_0000);
            let exponent = |v: u64| (v >> 23 & 255) as i32 - 150;
            let magnitude = significand(a) * significand(b);
            let shift = exponent(a) + exponent(b) + SCALE;
            let value = magnitude << shift;
            if (a ^ b) >> 31 & 1 == 1 { -value } else { value }
        };
        compare_on(&format!("mul.{mode}.f32 %r0, %r1, %r2;"), Out::Word, &inputs, |[a, b, ..]| {
            Some(bits(round(product(a, b), mode)))
        });
        compare_on(&format!("fma.{mode}.f32 %r0, %r1, %r2, %r3;"), Out::Word, &inputs, |[a, b, c, _]| {
            let exact = product(a, b) + fixed(float(c));
            (exact != 0).then(|| bits(round(exact, mode)))
        });
        // A quotient lies between its rounded neighbours: multiply back to see on which side.
        compare_on(&format!("div.{mode}.f32 %r0, %r1, %r2;"), Out::Word, &inputs, |[a, b, ..]| {
            let (x, y) = (float(a).abs(), float(b).abs());
            let nearest = x / y;
            let rest = (-nearest).mul_add(y, x);
            let (below, above) = match rest.partial_cmp(&0.0).unwrap() {
                std::cmp::Ordering::Less => (nearest.next_down(), nearest),
                std::cmp::Ordering::Equal => (nearest, nearest),
                std::cmp::Ordering::Greater => (nearest, nearest.next_up()),
            };
            let negative = (a ^ b) >> 31 & 1 == 1;
            let magnitude = match (mode, negative) {
                ("rn", _) => nearest,
                ("rz", _) | ("rm", false) | ("rp", true) => below,
                _ => above,
            };
            Some(bits(if negative { -magnitude } else { magnitude }))
        });
    }
}

#[test]
fn sums_that_cancel() {
    let pairs = vec![[0x3f80_0000u64, 0xbf80_0000, 0, 0]; 128];
    compare_on("add.rm.f32 %r0, %r1, %r2;", Out::Word, &pairs, |_| Some(0x8000_0000));
    compare_on("add.rn.f32 %r0, %r1, %r2;", Out::Word, &pairs, |_| Some(0));
    compare_on("fma.rm.f32 %r0, %r1, %r1, %r2;", Out::Word, &pairs, |_| Some(0x8000_0000));
}

#[test]
fn flush_and_saturate() {
    let flush = |v: u64| if v & 0x7f80_0000 == 0 { v & 0x8000_0000 } else { v & 0xffff_ffff };
    let ftz = |value: f32| flush(bits(value));
    compare("add.ftz.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| ftz(float(flush(a)) + float(flush(b))));
    compare("mul.ftz.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| ftz(float(flush(a)) * float(flush(b))));
    compare("fma.rn.ftz.f32 %r0, %r1, %r2, %r3;", Out::Word, |[a, b, c, _]| {
        ftz(float(flush(a)).mul_add(float(flush(b)), float(flush(c))))
    });
    let clamp = |value: f32| if value.is_nan() { 0 } else { bits(value.clamp(0.0, 1.0)) & 0x7fff_ffff };
    compare("add.sat.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| clamp(float(a) + float(b)));
    compare("fma.rn.sat.f32 %r0, %r1, %r2, %r3;", Out::Word, |[a, b, c, _]| {
        clamp(float(a).mul_add(float(b), float(c)))
    });
}

#[test]
fn extremes() {
    // Totally ordered by sign and magnitude; NaN loses against a number, or wins with .NaN.
    let order = |v: u64| if v >> 31 & 1 == 1 { -((v & 0x7fff_ffff) as i64) - 1 } else { v as i64 & 0x7fff_ffff };
    for (name, larger) in [("min", false), ("max", true)] {
        let pick = |a: u64, b: u64| {
            let (a, b) = (a & 0xffff_ffff, b & 0xffff_ffff);
            match (float(a).is_nan(), float(b).is_nan()) {
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
        compare(&format!("{name}.f32 %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| pick(a, b));
        compare(&format!("{name}.NaN.f32 %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| {
            if float(a).is_nan() || float(b).is_nan() { NAN } else { pick(a, b) }
        });
        compare(&format!("{name}.xorsign.abs.f32 %r0, %r1, %r2;"), Out::Word, |[a, b, ..]| {
            let magnitude = pick(a & 0x7fff_ffff, b & 0x7fff_ffff);
            if magnitude == NAN { NAN } else { magnitude | (a ^ b) & 0x8000_0000 }
        });
    }
    compare("abs.f32 %r0, %r1;", Out::Word, |[a, ..]| a & 0x7fff_ffff);
    compare("neg.f32 %r0, %r1;", Out::Word, |[a, ..]| (a ^ 0x8000_0000) & 0xffff_ffff);
    compare("copysign.f32 %r0, %r1, %r2;", Out::Word, |[a, b, ..]| a & 0x8000_0000 | b & 0x7fff_ffff);
    type Test = fn(f32) -> bool;
    let properties: [(&str, Test); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |v| !v.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ];
    for (name, test) in properties {
        compare(&format!("testp.{name}.f32 %p0, %r1;"), Out::Predicate, |[a, ..]| u64::from(test(float(a))));
    }
}

/// Doubles of moderate size.
fn double_inputs() -> Vec<Inputs> {
    let mut state = 7;
    let mut one = || random(&mut state) & 0x800f_ffff_ffff_ffff | (1000 + random(&mut state) % 48) << 52;
    (0..1024).map(|_| std::array::from_fn(|_| one())).collect()
}

#[test]
fn double_precision() {
    let f = f64::from_bits;
    let bits = |value: f64| if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() };
    compare("add.f64 %d0, %d1, %d2;", Out::Long, |[a, b, ..]| bits(f(a) + f(b)));
    compare("sub.rn.f64 %d0, %d1, %d2;", Out::Long, |[a, b, ..]| bits(f(a) - f(b)));
    compare("mul.f64 %d0, %d1, %d2;", Out::Long, |[a, b, ..]| bits(f(a) * f(b)));
    compare("div.rn.f64 %d0, %d1, %d2;", Out::Long, |[a, b, ..]| bits(f(a) / f(b)));
    compare("fma.rn.f64 %d0, %d1, %d2, %d3;", Out::Long, |[a, b, c, _]| bits(f(a).mul_add(f(b), f(c))));
    compare("sqrt.rn.f64 %d0, %d1;", Out::Long, |[a, ..]| bits(f(a).sqrt()));
    // Enough for the first step of a division: 20 bits of the exact result.
    compare_on("rcp.approx.ftz.f64 %d0, %d1;", Out::Long, &double_inputs(), |[a, ..]| {
        Some((1.0 / f64::from_bits(a & !0xffff_ffff)).to_bits() & !0xffff_ffff)
    });
    compare("neg.f64 %d0, %d1;", Out::Long, |[a, ..]| a ^ 1 << 63);
}

/// The approximate instructions, their exact functions and the documented error, as the largest distance from the
/// exact value that is still right.
type Function = (&'static str, fn(f64) -> f64, fn(f64, f64) -> f64);

fn functions() -> [Function; 8] {
    [
        ("ex2.approx.f32", f64::exp2, |_, y| 2.5 * (y.abs().log2().floor() - 23.0).exp2()),
        (
            "lg2.approx.f32",
            f64::log2,
            |x, y| {
                if x > 0.5 && x < 2.0 { (-22f64).exp2() } else { y.abs() * (-22f64).exp2() }
            },
        ),
        ("rcp.approx.f32", |x| 1.0 / x, |_, y| 1.5 * (y.abs().log2().floor() - 23.0).exp2()),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), |_, y| y.abs() * (-22.9f64).exp2()),
        ("sqrt.approx.f32", f64::sqrt, |_, y| y.abs() * (-23f64).exp2()),
        ("sin.approx.f32", f64::sin, |_, _| (-20.5f64).exp2()),
        ("cos.approx.f32", f64::cos, |_, _| (-20.5f64).exp2()),
        ("tanh.approx.f32", f64::tanh, |_, y| y.abs() * (-11f64).exp2()),
    ]
}

fn function_inputs() -> Vec<Inputs> {
    let mut state = 9;
    let mut inputs: Vec<Inputs> = (0..4096)
        .map(|k| {
            let unit = random(&mut state) as f64 / u64::MAX as f64;
            let x = if k % 2 == 0 { unit * 3.0 } else { (unit * 40.0 - 20.0).exp2() };
            [u64::from((x as f32).to_bits()), 0, 0, 0]
        })
        .collect();
    inputs[0][0] = u64::from(1f32.to_bits());
    inputs
}

#[test]
fn special_functions_are_rounded_correctly() {
    for (name, function, _) in functions() {
        compare_on(&format!("{name} %r0, %r1;"), Out::Word, &function_inputs(), |[a, ..]| {
            Some(bits(function(f64::from(float(a))) as f32))
        });
        compare_on(
            &format!("{} %r0, %r1;", name.replace(".f32", ".ftz.f32")),
            Out::Word,
            &function_inputs(),
            |[a, ..]| {
                let value = function(f64::from(float(a))) as f32;
                Some(if value.is_subnormal() { bits(value) & 0x8000_0000 } else { bits(value) })
            },
        );
    }
}

#[test]
fn special_functions_at_special_values() {
    let values = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -1.0];
    let inputs: Vec<Inputs> = (0..128).map(|k| [u64::from(values[k % 6].to_bits()), 0, 0, 0]).collect();
    let (inf, ninf) = (f32::INFINITY, f32::NEG_INFINITY);
    let expected: [(&str, [f32; 6]); 5] = [
        ("ex2.approx.ftz.f32", [1.0, 1.0, inf, 0.0, f32::NAN, 0.5]),
        ("lg2.approx.ftz.f32", [ninf, ninf, inf, f32::NAN, f32::NAN, f32::NAN]),
        ("rcp.approx.ftz.f32", [inf, ninf, 0.0, -0.0, f32::NAN, -1.0]),
        ("rsqrt.approx.ftz.f32", [inf, ninf, 0.0, f32::NAN, f32::NAN, f32::NAN]),
        ("tanh.approx.f32", [0.0, -0.0, 1.0, -1.0, f32::NAN, -0.761_594_2]),
    ];
    for numerics in [Numerics::Rounded, Numerics::Perturbed] {
        for (name, values) in expected {
            let options = Options::new(Architecture::Sm80).numerics(numerics);
            let results = execute(&format!("{name} %r0, %r1;"), &inputs, options);
            for (k, value) in values.iter().enumerate().take(if numerics == Numerics::Rounded { 6 } else { 5 }) {
                assert_eq!(results[k][1], bits(*value), "{name} of {}", f32::from_bits(inputs[k][0] as u32));
            }
        }
    }
}

#[test]
fn perturbed_functions_stay_within_their_bounds_and_use_them() {
    for (name, function, bound) in functions() {
        let inputs = function_inputs();
        let mut moved = 0;
        let run = |seed| {
            let options = Options::new(Architecture::Sm80).numerics(Numerics::Perturbed).seed(seed);
            execute(&format!("{name} %r0, %r1;"), &inputs, options)
        };
        let results = run(1);
        for (input, result) in inputs.iter().zip(&results) {
            let x = f64::from(float(input[0]));
            let (exact, found) = (function(x), float(result[1]));
            let error = (f64::from(found) - exact).abs();
            assert!(error <= bound(x, exact) || found == exact as f32, "{name}({x}) = {found}, {error:e} off");
            moved += usize::from(found != exact as f32);
        }
        assert!(moved > inputs.len() / 4, "{name} was perturbed {moved} times only");
        assert_eq!(run(1), results, "one seed, one result");
        assert_ne!(run(2), results, "another seed, another result");
    }
}
