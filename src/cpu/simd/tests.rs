//! Every instruction set against exact results, and against the others' meaning of each operation.

use half::{bf16, f16};

use super::*;
use crate::cpu::floats::{Floats, FloatsMut};

vectorized! {
    fn exp2_of(values: &mut [f32]) = exp2_on;
    fn primitives(a: &[f32], b: &[f32], c: &[f32]) -> Vec<Vec<f32>> = primitives_on;
}

#[inline(always)]
fn exp2_on<S: Simd>(s: S, values: &mut [f32]) {
    for chunk in values.chunks_exact_mut(S::LANES) {
        // SAFETY: the chunk is a vector.
        unsafe { s.store::<false>(chunk.as_mut_ptr(), math::exp2(s, s.load(chunk.as_ptr()))) };
    }
}

/// What each operation of a set makes of vectors, one list an operation.
#[inline(always)]
fn primitives_on<S: Simd>(s: S, a: &[f32], b: &[f32], c: &[f32]) -> Vec<Vec<f32>> {
    let mut results = vec![Vec::new(); 13];
    for at in (0..a.len()).step_by(S::LANES) {
        // SAFETY: the slices are whole vectors of 16 lanes, and so of fewer.
        let [a, b, c] = [a, b, c].map(|values| unsafe { s.load(values[at..at + S::LANES].as_ptr()) });
        let outcomes = [
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.abs(a),
            s.copy_sign(s.abs(a), b),
            s.mul_add(a, b, c),
            s.max(a, b),
            s.select(s.is_less(a, b), a, c),
            s.select(s.and(s.is_less(a, b), s.is_less(b, c)), a, b),
            s.select(s.or(s.is_less(a, b), s.is_less(b, c)), a, b),
            s.shift_to_exponent(a),
            s.pairs(a, b),
        ];
        for (result, outcome) in results.iter_mut().zip(outcomes) {
            let mut lanes = [0.0; LANES];
            // SAFETY: no vector is longer than the array.
            unsafe { s.store::<false>(lanes.as_mut_ptr(), outcome) };
            result.extend(&lanes[..S::LANES]);
        }
    }
    results
}

/// Distance in units of the last place of `exact`.
fn ulps(value: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
    (f64::from(value) - exact).abs() / ulp
}

/// Numbers of every kind, in whole vectors.
fn kinds() -> Vec<f32> {
    let special = [0.0, 1.0, 1.5, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40, 65520.0, 3e-8, 0.1, 0.3, 2e9];
    let ties = (0..500).map(|step| f32::from_bits(0x3f80_0000 + step * 0x800));
    let mut values: Vec<f32> = special.into_iter().chain(ties).flat_map(|value| [value, -value]).collect();
    values.resize(values.len().next_multiple_of(LANES), 0.7);
    values
}

#[test]
fn operations_are_those_of_scalars() {
    let a = kinds();
    let b: Vec<f32> = a.iter().rev().copied().collect();
    let c: Vec<f32> = a.iter().map(|value| value * 0.5 + 1.0).collect();
    let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
    for set in InstructionSet::all() {
        let results = primitives(set, &a, &b, &c);
        for (index, ((a, b), c)) in a.iter().zip(&b).zip(&c).enumerate() {
            let exact = [
                a + b,
                a - b,
                a * b,
                a / b,
                a.abs(),
                a.abs().copysign(*b),
                a * b + c,
                if a > b { *a } else { *b },
                if a < b { *a } else { *c },
                if a < b && b < c { *a } else { *b },
                if a < b || b < c { *a } else { *b },
                f32::from_bits(a.to_bits() << 23),
                f32::from_bits(bits(*a) | (bits(*b) << 16)),
            ];
            let normal = |value: f32| if value.is_subnormal() { 0.0f32.copysign(value) } else { value };
            let flushed = bits(normal(*a)) | (bits(normal(*b)) << 16);
            for (operation, (result, exact)) in results.iter().zip(exact).enumerate() {
                let (result, fused) = (result[index], a.mul_add(*b, *c));
                let is_same = result.to_bits() == exact.to_bits() || (result.is_nan() && exact.is_nan());
                let is_fused = operation == 6 && result.to_bits() == fused.to_bits();
                // Instructions for bf16 take subnormal numbers for 0.
                let is_flushed = operation == 12 && set.multiplies_pairs() && result.to_bits() == flushed;
                assert!(
                    is_same || is_fused || is_flushed,
                    "{set:?}: operation {operation} of {a}, {b}, {c}: {result} for {exact}"
                );
            }
        }
    }
}

#[test]
fn exp2_is_within_two_ulp() {
    for set in InstructionSet::all() {
        let mut worst = (0.0f64, 0.0f32);
        for block in 0..125_000u32 {
            let x: Vec<f32> = (0..16).map(|step| -((block * 16 + step) as f32) * 6.25e-5).collect();
            let mut values = x.clone();
            exp2_of(set, &mut values);
            for (x, value) in x.into_iter().zip(values) {
                let error = ulps(value, f64::from(x).exp2());
                if error > worst.0 {
                    worst = (error, x);
                }
            }
        }
        assert!(worst.0 <= 2.0, "{set:?}: exp2({}) is {} ulp off", worst.1, worst.0);
    }
}

#[test]
fn exp2_of_special_values() {
    for set in InstructionSet::all() {
        let mut values = [0.0; 16];
        let noisy = f32::from_bits(0x7fff_ffff);
        values[..8].copy_from_slice(&[f32::NEG_INFINITY, 0.0, -1000.0, f32::NAN, -127.5, -1.0, noisy, 3.0]);
        exp2_of(set, &mut values);
        assert_eq!((values[0], values[1], values[2], values[4], values[5]), (0.0, 1.0, 0.0, 0.0, 0.5), "{set:?}");
        assert!(values[3].is_nan() && values[6].is_nan() && values[7] == 8.0, "{set:?}");
    }
}

#[test]
fn products_equal_scalar_sums() {
    for (set, m) in InstructionSet::all().flat_map(|set| (1..=18).chain([37, 96]).map(move |m| (set, m))) {
        for n in [set.lanes(), 2 * set.lanes(), 3 * set.lanes(), 11 * set.lanes()] {
            let (k, stride) = (37, n + 5);
            // Small integers: the products and sums are exact in any order.
            let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 - 8.0).collect();
            let b: Vec<f32> = (0..k * stride).map(|i| (i % 23) as f32 - 11.0).collect();
            let factors: Vec<f32> = (0..m).map(|row| (row % 3) as f32).collect();
            let a_transposed: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let by_rows = Left::of_rows(&a, k);
            let by_columns = Left::of_columns(&a_transposed, m);
            for (a_matrix, update) in
                [(by_rows, Update::Set), (by_columns, Update::Add), (by_rows, Update::ScaleAdd(&factors))]
            {
                let mut c = vec![3.0f32; m * stride];
                let right = Right { values: &b, stride, first: 0 };
                product(set, Elements::F32, a_matrix, right, &mut c, stride, update, [m, n, k]);
                for (index, c) in c.iter().enumerate() {
                    let (row, column) = (index / stride, index % stride);
                    let exact: f32 = (0..k).map(|depth| a[row * k + depth] * b[depth * stride + column % n]).sum();
                    let expected = match update {
                        _ if column >= n => 3.0,
                        Update::Set => exact,
                        Update::Add => 3.0 + exact,
                        Update::ScaleAdd(factors) => 3.0 * factors[row] + exact,
                    };
                    assert_eq!(*c, expected, "{set:?}: ({row}, {column}) of {m} by {n}");
                }
            }
        }
    }
}

#[test]
fn products_of_pairs_are_sums_of_two() {
    let sets = || InstructionSet::all().filter(|set| set.multiplies_pairs());
    let rows = [1, 7, 16, 17, 32, 33, 96];
    // Depths in parts, in whole groups of tiles and in more than are laid out together; from the start of a group and from within.
    let depths = [(0, 0), (9, 0), (16, 0), (48, 0), (40, 5), (3, 14), (150, 0), (150, 7)];
    for (set, m, (k, first)) in
        sets().flat_map(|set| rows.map(|m| (set, m))).flat_map(|(set, m)| depths.map(|k| (set, m, k)))
    {
        for n in [set.lanes(), 2 * set.lanes(), 5 * set.lanes()] {
            let pair = |low: f32, high: f32| {
                let bits = |value| u32::from(bf16::from_f32(value).to_bits());
                f32::from_bits(bits(low) | (bits(high) << 16))
            };
            let (stride, value) = (n + 5, |i: usize| (i % 13) as f32 - 6.0);
            let a: Vec<f32> = (0..m * k).map(|i| pair(value(2 * i), value(2 * i + 1))).collect();
            let b: Vec<f32> = (0..k * stride).map(|i| pair(value(i), value(3 * i + 1))).collect();
            let a_transposed: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let factors: Vec<f32> = (0..m).map(|row| (row % 3) as f32).collect();
            let (by_rows, by_columns) = (Left::of_rows(&a, k), Left::of_columns(&a_transposed, m));
            for (left, update) in [
                (by_rows, Update::Set),
                (by_columns, Update::Set),
                (by_columns, Update::Add),
                (by_rows, Update::ScaleAdd(&factors)),
            ] {
                let mut c = vec![3.0f32; m * stride];
                product(
                    set,
                    Elements::Pairs,
                    left,
                    Right { values: &b, stride, first },
                    &mut c,
                    stride,
                    update,
                    [m, n, k],
                );
                for (index, c) in c.iter().enumerate() {
                    let (row, column) = (index / stride, index % stride);
                    let term = |depth: usize| {
                        let (left, right) = (row * k + depth, depth * stride + column % n);
                        value(2 * left) * value(right) + value(2 * left + 1) * value(3 * right + 1)
                    };
                    let exact = (0..k).map(term).sum::<f32>();
                    let expected = match update {
                        _ if column >= n => 3.0,
                        Update::Set => exact,
                        Update::Add => 3.0 + exact,
                        Update::ScaleAdd(factors) => 3.0 * factors[row] + exact,
                    };
                    assert_eq!(*c, expected, "{set:?}: ({row}, {column}) of {m} by {n}, {k} pairs from {first} on");
                }
            }
        }
    }
}

#[test]
fn tanh_is_within_three_ulp() {
    for set in InstructionSet::all() {
        let mut worst = (0.0f64, 0.0f32);
        for block in 0..62_500u32 {
            let x: Vec<f32> = (1..=16).map(|step| (block * 16 + step) as f32 * 1e-5).collect();
            let mut values: Vec<f32> = x.iter().flat_map(|x| [*x, -x]).collect();
            softcap(set, &mut values, 1.0, &mut []);
            for (x, values) in x.into_iter().zip(values.chunks(2)) {
                assert_eq!(values[0], -values[1]);
                let error = ulps(values[0], f64::from(x).tanh());
                if error > worst.0 {
                    worst = (error, x);
                }
            }
        }
        assert!(worst.0 <= 3.0, "{set:?}: tanh({}) is {} ulp off", worst.1, worst.0);
        let mut special = [0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30];
        let mut derivatives = [7.0; 5];
        softcap(set, &mut special, 1.0, &mut derivatives);
        assert_eq!((special[0], special[1], special[2], special[4]), (0.0, 1.0, -1.0, 1e-30));
        assert_eq!((derivatives[0], derivatives[1], derivatives[2]), (1.0, 0.0, 0.0));
        assert!(special[3].is_nan() && derivatives[3].is_nan());
    }
}

#[test]
fn a_panel_is_softmaxed_lane_by_lane_in_steps() {
    for (set, vectors) in InstructionSet::all().flat_map(|set| [(set, 1), (set, 2), (set, 3)]) {
        let width = vectors * set.lanes();
        let score = |row: usize, lane: usize| match lane % 5 {
            // A lane that sees nothing at first, one that never does, and one with a NaN.
            1 if row < 4 => f32::NEG_INFINITY,
            2 => f32::NEG_INFINITY,
            3 if row == 6 => f32::NAN,
            _ => ((row * 7 + lane * 3) % 11) as f32 * 0.5 - 2.0,
        };
        let (mut max, mut sum) = (vec![f32::NEG_INFINITY; width], vec![0.0; width]);
        let mut weights = vec![0.0f64; 9 * width];
        for rows in [0..4, 4..9] {
            let mut panel: Vec<f32> =
                rows.clone().flat_map(|row| (0..width).map(move |lane| score(row, lane))).collect();
            let mut rescale = vec![f32::NAN; width];
            let running = Running { max: &mut max, sum: &mut sum, rescale: &mut rescale };
            softmax_panel(set, &mut panel, width, 0.5, running, false);
            for (index, weight) in weights.iter_mut().enumerate() {
                match index.checked_sub(rows.start * width).and_then(|index| panel.get(index)) {
                    Some(new) => *weight = f64::from(*new),
                    None => *weight *= f64::from(rescale[index % width]),
                }
            }
        }
        for lane in 0..width {
            let scores = (0..9).map(|row| f64::from(score(row, lane)));
            let largest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.clone().map(|score| ((score - largest) * 0.5).exp2()).sum();
            match lane % 5 {
                2 => assert_eq!((max[lane], sum[lane]), (f32::NEG_INFINITY, 0.0)),
                3 => assert!(sum[lane].is_nan()),
                _ => {
                    assert_eq!(f64::from(max[lane]), largest);
                    assert!((f64::from(sum[lane]) - total).abs() < 1e-5 * total, "{set:?}: {} for {total}", sum[lane]);
                    for (row, score) in scores.enumerate() {
                        assert!((weights[row * width + lane] - ((score - largest) * 0.5).exp2()).abs() < 1e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn weights_are_joined_as_rows_are() {
    for (set, vectors) in InstructionSet::all().flat_map(|set| [(set, 1), (set, 2), (set, 3)]) {
        let width = vectors * set.lanes();
        let scores: Vec<f32> = (0..6 * width).map(|i| (i * 7 % 31) as f32 * 0.3 - 4.0).collect();
        let [joined, expected] = [true, false].map(|joins| {
            let (mut panel, mut max, mut sum) = (scores.clone(), vec![0.5; width], vec![2.0; width]);
            let mut rescale = vec![0.0; width];
            let running = Running { max: &mut max, sum: &mut sum, rescale: &mut rescale };
            softmax_panel(set, &mut panel, width, 0.5, running, joins);
            if !joins {
                pair_rows(set, &mut panel, width);
            }
            let bits: Vec<u32> = panel[..3 * width].iter().map(|pair| pair.to_bits()).collect();
            (bits, max, sum, rescale)
        });
        assert_eq!(joined, expected, "{set:?}");
    }
}

#[test]
fn lanes_see_what_they_are_told() {
    for set in InstructionSet::all() {
        let (width, rows) = (2 * set.lanes(), 9);
        let mut panel = vec![1.0f32; rows * (width + 3)];
        let of = |value: fn(usize) -> f32| (0..width).map(value).collect::<Vec<f32>>();
        let (start, end, prefix) =
            (of(|lane| lane as f32 - 3.0), of(|lane| lane as f32), of(|lane| if lane % 2 == 0 { 2.0 } else { -1.0 }));
        let keys = LaneKeys { start: &start, end: &end, prefix: &prefix };
        hide_outside(set, &mut panel, [width, width + 3, rows], keys);
        for (index, score) in panel.iter().enumerate() {
            let (row, lane) = (index / (width + 3), index % (width + 3));
            let is_seen = lane >= width || (row + 3 >= lane && row < lane) || (lane % 2 == 0 && row < 2);
            assert_eq!(*score, if is_seen { 1.0 } else { f32::NEG_INFINITY }, "{set:?}: row {row}, lane {lane}");
        }
    }
}

#[test]
fn hidden_scores_have_no_gradient_whatever_the_rest_holds() {
    for (set, has_dropout) in InstructionSet::all().flat_map(|set| [(set, false), (set, true)]) {
        let width = set.lanes();
        let rows = [[f32::NEG_INFINITY, f32::NAN], [0.0, 3.0], [0.5, 2.0]];
        let mut scores: Vec<f32> = rows.iter().flat_map(|row| vec![row[0]; width]).collect();
        let mut d_weights: Vec<f32> = rows.iter().flat_map(|row| vec![row[1]; width]).collect();
        let kept: Vec<f32> = [f32::NAN, 1.0, 2.0].into_iter().flat_map(|kept| vec![kept; width]).collect();
        let (mut base, delta) = (vec![0.5; width], vec![1.0; width]);
        base[1] = f32::INFINITY;
        let kept = if has_dropout { &kept[..] } else { &[] };
        gradient_panel(set, [&mut scores, &mut d_weights], kept, [width, width, 3], 1.0, [&base, &delta]);
        for lane in 0..width {
            let [weights, d_scores] = [&scores, &d_weights].map(|panel| [0, 1, 2].map(|row| panel[row * width + lane]));
            let p = [0.0, (-0.5f32).exp(), 1.0];
            let kept = |row: usize| if has_dropout { row as f32 } else { 1.0 };
            for row in 0..3 {
                let (weight, d_score) = match (lane, row) {
                    (1, _) | (_, 0) => (0.0, 0.0),
                    _ => (p[row] * kept(row), p[row] * (rows[row][1] * kept(row) - 1.0)),
                };
                assert!((weights[row] - weight).abs() < 1e-6 && (d_scores[row] - d_score).abs() < 1e-6, "{set:?}");
            }
        }
    }
}

#[test]
fn rows_become_lanes() {
    for (set, columns) in InstructionSet::all().flat_map(|set| [1, 7, 8, 20].map(|columns| (set, columns))) {
        let (lanes, stride, width) = (set.lanes(), columns + 3, 2 * set.lanes());
        let rows: Vec<f32> = (0..lanes * stride).map(|i| i as f32).collect();
        let mut panel = vec![-1.0; columns * width];
        transpose_rows(set, &rows, stride, &mut panel[lanes..], width, columns);
        for (index, value) in panel.iter().enumerate() {
            let (column, lane) = (index / width, index % width);
            let expected = if lane < lanes { -1.0 } else { ((lane - lanes) * stride + column) as f32 };
            assert_eq!(*value, expected, "{set:?}: ({column}, {lane}) of {columns} columns");
        }
    }
}

#[test]
fn rows_of_pairs_are_joined() {
    for set in InstructionSet::all() {
        let width = set.lanes();
        let mut panel: Vec<f32> = (0..4 * width).map(|i| i as f32 * 0.37).collect();
        let before = panel.clone();
        pair_rows(set, &mut panel, width);
        let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
        for (index, pair) in panel[..2 * width].iter().enumerate() {
            let low = before[index / width * 2 * width + index % width];
            let high = before[(index / width * 2 + 1) * width + index % width];
            assert_eq!(pair.to_bits(), bits(low) | (bits(high) << 16), "{set:?}");
        }
    }
}

#[test]
fn rows_of_any_length_are_summed_and_normalised() {
    for (set, length) in InstructionSet::all().flat_map(|set| [0, 1, 31, 32, 33, 100, 1057].map(|length| (set, length)))
    {
        let values: Vec<f32> = (0..length).map(|i| ((i * 7) % 11) as f32).collect();
        let sum = |center: f32, power: i32| values.iter().map(|v| (v - center).powi(power)).sum::<f32>();
        assert_eq!(sum_of_squares(set, Floats::F32(&values), 1.0), sum(1.0, 2), "{set:?}");
        let [guess, distance, square] = moments(set, Floats::F32(&values));
        if length > 0 {
            let first = &values[..length.min(64)];
            let expected = first.iter().sum::<f32>() / first.len() as f32;
            assert!((guess - expected).abs() <= 1e-5, "{set:?}: a guess of {guess} for {expected}");
            for (found, power) in [(distance, 1), (square, 2)] {
                let exact = sum(guess, power);
                assert!((found - exact).abs() <= 1e-5 * sum(guess, 2) + 1e-3, "{set:?}, {length}: {found} for {exact}");
            }
        }
        assert_eq!(dot(set, &values, &values), values.iter().map(|v| v * v).sum::<f32>());
        let narrow: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        assert_eq!(sum_of_squares(set, Floats::F16(&narrow), 1.0), sum(1.0, 2), "{set:?}");
        let mut y = vec![bf16::ZERO; length];
        let stats = Stats { mean: 1.0, rstd: 2.0 };
        for store in [Store::Cached, Store::Streamed] {
            y.fill(bf16::NAN);
            let (x, out) = (Floats::F16(&narrow), FloatsMut::BF16(&mut y));
            normalize(set, x, out, &stats, &values, &values, store);
            for (y, x) in y.iter().zip(&values) {
                assert_eq!(y.to_f32(), (x - 1.0) * 2.0 * x + x, "{set:?}");
            }
        }
    }
}
