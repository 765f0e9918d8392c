//! Softmax and norms, forward and backward, on every device against the float64 oracle.

use crate::common::attention::dropout;
use crate::common::rows::norm::{NORM_OPERANDS, NormNumbers, NormOutcome};
use crate::common::rows::softmax::SOFTMAX_OPERANDS;
use crate::common::rows::{
    NormAttempt, NormOperand, SoftmaxAttempt, SoftmaxOperand, check_softmax_of_a_nan_beside_hidden_columns,
    check_softmax_of_special_values, drawn_rows, drawn_vector, longest_row,
};
use crate::common::{DTYPES, PLACEMENTS, Placement, devices, small, values};
use warpfold::reference::{Alignment, NormCase, SoftmaxCase};
use warpfold::variants::{Operation, RowFeatures, Tile, VARIANTS};
use warpfold::{DType, Device, Norm, NormBackwardInputs, NormInputs, Softmax, Tensor};

/// One row length for each reason: single elements, around a vector and a warp, the usual hidden sizes, and long rows.
const COLUMNS: [usize; 13] = [1, 2, 3, 31, 33, 127, 129, 1000, 1023, 1025, 3584, 8191, 65_537];

/// A length in the middle of each kernel's reach, and one that several blocks share.
const OPTION_COLUMNS: [usize; 4] = [40, 300, 1100, 33_001];

/// Few rows of many columns, more of few.
fn rows_of(columns: usize) -> usize {
    if columns > 3000 { 2 } else { 5 }
}

fn small_enough(columns: &usize) -> bool {
    !small() || *columns <= 1100
}

fn columns() -> impl Iterator<Item = usize> {
    COLUMNS.into_iter().filter(small_enough)
}

fn option_columns() -> impl Iterator<Item = usize> {
    OPTION_COLUMNS.into_iter().filter(small_enough)
}

fn softmax(columns: usize, dtype: DType) -> SoftmaxAttempt {
    SoftmaxAttempt::new(SoftmaxCase::new(&[rows_of(columns), columns]), dtype, Placement::Contiguous)
}

/// With weight and bias.
fn with_vectors(case: NormCase) -> NormCase {
    NormCase { weight: drawn_vector(), bias: drawn_vector(), ..case }
}

fn layer_norm(columns: usize, dtype: DType) -> NormAttempt {
    NormAttempt::new(with_vectors(NormCase::layer(columns)), &[rows_of(columns)], dtype, Placement::Contiguous)
}

#[test]
fn softmax_of_every_length_agrees_with_the_oracle() {
    for device in devices() {
        for (columns, dtype) in columns().flat_map(|columns| DTYPES.map(|dtype| (columns, dtype))) {
            softmax(columns, dtype).check_both(&device, "row length");
        }
    }
}

#[test]
fn norms_of_every_length_agree_with_the_oracle() {
    for device in devices() {
        for (columns, dtype) in columns().flat_map(|columns| DTYPES.map(|dtype| (columns, dtype))) {
            layer_norm(columns, dtype).check_both(&device, "row length");
        }
    }
}

/// Backward, a block walks rows that are not neighbours. In exchanged dimensions of odd length, each of them begins at another
/// place of a 16-byte vector.
#[test]
fn rows_of_uneven_distance_agree_with_the_oracle() {
    for device in devices() {
        for columns in [101, 1101] {
            for dtype in DTYPES {
                let leading = if columns < 1000 { [24, 16] } else { [5, 8] };
                NormAttempt::new(NormCase::layer(columns), &leading, dtype, Placement::Transposed)
                    .check_both(&device, "rows of uneven distance");
            }
        }
    }
}

/// A vocabulary: the longest rows that anyone has, and an odd number more.
#[test]
fn rows_of_a_vocabulary_agree_with_the_oracle() {
    for device in devices() {
        for columns in [262_144, 262_147].into_iter().filter(small_enough) {
            let softmax = SoftmaxAttempt::new(SoftmaxCase::new(&[2, columns]), DType::F16, Placement::Contiguous);
            softmax.check_both(&device, "a vocabulary");
            NormAttempt::new(NormCase::rms(columns), &[2], DType::BF16, Placement::Contiguous)
                .check_both(&device, "a vocabulary");
        }
    }
}

/// The longest row of each kernel of the table, and the next longer one.
#[test]
fn lengths_at_which_kernels_change_agree_with_the_oracle() {
    for device in devices() {
        for kernel in &VARIANTS {
            let Tile::Rows { features, .. } = kernel.tile else { continue };
            let step = if features == RowFeatures::Whole { 16 / kernel.dtype.size_bytes() } else { 1 };
            let last = longest_row(kernel);
            for columns in [last, last + step].into_iter().filter(small_enough) {
                let placement = match features {
                    RowFeatures::General => Placement::Misaligned,
                    RowFeatures::Whole | RowFeatures::Plain => Placement::Contiguous,
                };
                let softmax =
                    SoftmaxAttempt { placements: [placement; SOFTMAX_OPERANDS], ..softmax(columns, kernel.dtype) };
                let norm = NormAttempt { placements: [placement; NORM_OPERANDS], ..layer_norm(columns, kernel.dtype) };
                match kernel.operation {
                    Operation::SoftmaxForward => softmax.check(&device, "a kernel's last length"),
                    Operation::SoftmaxBackward => softmax.check_backward(&device, "a kernel's last length"),
                    Operation::NormForward => norm.check(&device, "a kernel's last length"),
                    _ => norm.check_backward(&device, "a kernel's last length"),
                }
            }
        }
    }
}

/// Every pair of places for what is read and what is written.
#[test]
fn every_placement_agrees_with_the_oracle() {
    for device in devices() {
        for (index, (read, written)) in
            PLACEMENTS.iter().flat_map(|read| PLACEMENTS.map(|written| (*read, written))).enumerate()
        {
            // Three lengths, each in each type over the pairs: their numbers have no common divisor with four.
            let (columns, dtype) = ([13, 300, 1100][index % 3], DTYPES[(index / 3 + index) % 3]);
            let mut attempt = SoftmaxAttempt::new(SoftmaxCase::new(&[2, 3, 2, columns]), dtype, read);
            for operand in [SoftmaxOperand::Y, SoftmaxOperand::DX] {
                attempt = attempt.place(operand, written);
            }
            attempt.check_both(&device, "placement");
            let mut attempt = NormAttempt::new(with_vectors(NormCase::layer(columns)), &[2, 3, 2], dtype, read);
            attempt = NormAttempt { with_residual: true, with_d_sum: true, with_d_residual: true, ..attempt };
            for operand in [NormOperand::Y, NormOperand::DX, NormOperand::DResidual] {
                attempt = attempt.place(operand, written);
            }
            attempt.check_both(&device, "placement");
        }
    }
}

/// Each tensor in turn lies otherwise than all the others, aligned among misaligned ones and the other way round.
#[test]
fn each_tensor_in_a_place_of_its_own_agrees_with_the_oracle() {
    for device in devices() {
        for (others, one) in [
            (Placement::Misaligned, Placement::Padded),
            (Placement::Contiguous, Placement::Misaligned),
            (Placement::Padded, Placement::Transposed),
        ] {
            for index in 0..SOFTMAX_OPERANDS {
                let shape = [2, 3, 203];
                let case =
                    SoftmaxCase { bias: drawn_rows(&shape), mask: drawn_rows(&shape), ..SoftmaxCase::new(&shape) };
                let mut attempt = SoftmaxAttempt::new(case, DTYPES[index % 3], others);
                attempt.placements[index] = one;
                attempt.check_both(&device, "a tensor in a place of its own");
            }
            for index in 0..NORM_OPERANDS {
                let case = with_vectors(NormCase::layer(203));
                let attempt = NormAttempt::new(case, &[2, 3], DTYPES[index % 3], others);
                let mut attempt =
                    NormAttempt { with_residual: true, with_d_sum: true, with_d_residual: true, ..attempt };
                attempt.placements[index] = one;
                attempt.check_both(&device, "a tensor in a place of its own");
            }
        }
    }
}

/// Every option of softmax by itself, and all of them together, as many queries as keys or more or fewer.
fn softmax_cases(columns: usize) -> Vec<(&'static str, SoftmaxCase)> {
    let long = columns > 3000;
    let shape = if long { [1, 1, 3, columns] } else { [2, 2, 3, columns] };
    let [batch, heads, len_q, _] = shape;
    let plain = SoftmaxCase::new(&shape);
    let some = columns / 3;
    let mut cases = vec![
        ("the logarithm", SoftmaxCase { is_log: true, ..plain.clone() }),
        ("a temperature", SoftmaxCase { scale: f64::from(1.0f32 / 0.7), ..plain.clone() }),
        ("causal", SoftmaxCase { causal: true, ..plain.clone() }),
        (
            "causal from the first column on",
            SoftmaxCase { causal: true, alignment: Alignment::Offset(0), ..plain.clone() },
        ),
        (
            "causal, and rows that see nothing",
            SoftmaxCase { causal: true, alignment: Alignment::Offset(-2), ..plain.clone() },
        ),
        (
            "a window",
            SoftmaxCase { window: (Some(some), Some(5)), alignment: Alignment::Offset(some as i64), ..plain.clone() },
        ),
        ("a prefix beside a window", SoftmaxCase { causal: true, window: (Some(3), None), prefix: 9, ..plain.clone() }),
        ("a bias of every element", SoftmaxCase { bias: drawn_rows(&shape), ..plain.clone() }),
        ("a mask of every element", SoftmaxCase { mask: drawn_rows(&shape), ..plain.clone() }),
        (
            "everything",
            SoftmaxCase {
                scale: 0.75,
                is_log: true,
                bias: drawn_rows(&[heads, 1, columns]),
                mask: drawn_rows(&[batch, 1, len_q, columns]),
                causal: true,
                window: (Some(some), None),
                prefix: 2,
                alignment: Alignment::Offset(columns as i64 - 5),
                ..plain.clone()
            },
        ),
    ];
    if !long {
        for own in
            [&[columns][..], &[batch, 1, 1, columns], &[1, heads, len_q, columns], &[len_q, 1], &[1], &[2, 1, 1, 1]]
        {
            cases.push(("a broadcast bias", SoftmaxCase { bias: drawn_rows(own), ..plain.clone() }));
            cases.push(("a broadcast mask", SoftmaxCase { mask: drawn_rows(own), ..plain.clone() }));
        }
    }
    cases
}

#[test]
fn options_of_softmax_agree_with_the_oracle() {
    for device in devices() {
        for columns in option_columns() {
            for (index, (why, case)) in softmax_cases(columns).into_iter().enumerate() {
                let (dtype, placement) = (DTYPES[index % 3], PLACEMENTS[(index / 2) % 4]);
                let attempt = SoftmaxAttempt::new(case, dtype, placement);
                let bias_dtype = if (index + columns) % 2 == 0 { DType::F32 } else { dtype };
                SoftmaxAttempt { bias_dtype, ..attempt.clone() }.check(&device, why);
                // Masks and biases show in y only: of the backward pass, the shortest rows see them all.
                if columns == 40 || attempt.case.is_log {
                    attempt.check_backward(&device, why);
                }
                if columns != 300 {
                    SoftmaxAttempt { in_place: true, ..attempt }.check_both(&device, why);
                }
            }
        }
    }
}

/// Every option of a norm by itself, and all of them together.
fn norm_attempts(columns: usize, dtype: DType, placement: Placement) -> Vec<(&'static str, NormAttempt)> {
    let leading = if columns > 3000 { vec![2] } else { vec![2, 3] };
    let new = |case: NormCase| NormAttempt::new(case, &leading, dtype, placement);
    let (layer, rms) = (NormCase::layer(columns), NormCase::rms(columns));
    let (weight, bias) = (drawn_vector, drawn_vector);
    let plain = new(with_vectors(layer.clone()));
    vec![
        ("no weight and no bias", new(layer.clone())),
        ("a weight without a bias", new(NormCase { weight: weight(), ..layer.clone() })),
        ("a bias without a weight", new(NormCase { bias: bias(), ..layer.clone() })),
        ("a zero-centred weight", new(NormCase { is_zero_centered: true, ..with_vectors(layer.clone()) })),
        ("RMS norm", new(NormCase { weight: weight(), ..rms.clone() })),
        ("RMS norm with a zero-centred weight", new(NormCase { is_zero_centered: true, ..with_vectors(rms.clone()) })),
        ("a large eps", new(NormCase { eps: 2.0, ..with_vectors(layer.clone()) })),
        ("a variance like eps", NormAttempt { mean: 0.0, spread: 0.003, ..plain.clone() }),
        ("a residual", NormAttempt { with_residual: true, ..plain.clone() }),
        ("a residual whose sum is not wanted", NormAttempt { with_residual: true, with_sum: false, ..plain.clone() }),
        ("dropout", new(NormCase { dropout: dropout(0.25), ..with_vectors(layer.clone()) })),
        (
            "dropout and a residual",
            NormAttempt {
                with_residual: true,
                with_d_residual: true,
                ..new(NormCase { dropout: dropout(0.9), ..with_vectors(rms.clone()) })
            },
        ),
        ("statistics that are not kept", NormAttempt { with_stats: false, ..plain.clone() }),
        (
            "statistics of an RMS norm that are not kept",
            NormAttempt { with_stats: false, ..new(NormCase { weight: weight(), ..rms.clone() }) },
        ),
        ("a gradient from other uses of the sum", NormAttempt { with_d_sum: true, ..plain.clone() }),
        (
            "everything",
            NormAttempt {
                with_residual: true,
                with_stats: false,
                with_d_sum: true,
                with_d_residual: true,
                ..new(NormCase { is_zero_centered: true, dropout: dropout(0.1), ..with_vectors(layer) })
            },
        ),
    ]
}

#[test]
fn options_of_norms_agree_with_the_oracle() {
    for device in devices() {
        for (index, columns) in option_columns().enumerate() {
            let attempts = norm_attempts(columns, DTYPES[index % 3], PLACEMENTS[index % 4]);
            // Again in another type, lying otherwise, where rows are short.
            let others = norm_attempts(columns, DTYPES[(index + 1) % 3], PLACEMENTS[(index + 3) % 4]);
            for (why, attempt) in attempts.into_iter().chain(others.into_iter().filter(|_| columns < 3000)) {
                attempt.check_both(&device, why);
            }
        }
    }
}

/// Tensors of different types: a 16-bit x in an f32 residual stream, parameters in f32, and each tensor by itself.
#[test]
fn norms_of_mixed_types_agree_with_the_oracle() {
    for device in devices() {
        for columns in option_columns() {
            let leading: &[usize] = if columns > 3000 { &[2] } else { &[2, 3] };
            let new = |dtype| {
                let case = NormCase { dropout: dropout(0.25), ..with_vectors(NormCase::layer(columns)) };
                let attempt = NormAttempt::new(case, leading, dtype, Placement::Misaligned);
                NormAttempt { with_residual: true, with_d_sum: true, with_d_residual: true, ..attempt }
            };
            let with = |dtype, operands: &[NormOperand], other| {
                operands.iter().fold(new(dtype), |attempt, operand| attempt.retype(*operand, other))
            };
            use NormOperand::{Bias, DResidual, DSum, DX, DY, Residual, Sum, Weight, X, Y};
            let stream = [Residual, Sum, DSum, DResidual];
            with(DType::BF16, &stream, DType::F32).check_both(&device, "a residual stream in f32");
            with(DType::F16, &[Weight, Bias], DType::F32).check_both(&device, "parameters in f32");
            let plain = NormAttempt { with_residual: false, ..with(DType::F32, &[Y, DY, DX], DType::BF16) };
            plain.check_both(&device, "bf16 around f32");
            if columns > 3000 {
                continue;
            }
            for operand in [X, Residual, Weight, Bias, Y, Sum, DY, DSum, DX, DResidual] {
                with(DType::F32, &[operand], DType::F16).check_both(&device, "one tensor of another type");
                with(DType::BF16, &[operand], DType::F16).check_both(&device, "one tensor of another type");
            }
        }
    }
}

/// `0.01 * randn + 100` leaves no digits to `E[x^2] - E[x]^2`, nor to a mean that is a sum of such numbers in f32.
#[test]
fn norms_keep_the_digits_of_rows_with_a_large_offset() {
    for device in devices() {
        for columns in [64, 1000, 5000, 20_000].into_iter().filter(small_enough) {
            for with_stats in [true, false] {
                let plain = layer_norm(columns, DType::F32);
                let attempt = NormAttempt { mean: 100.0, spread: 0.01, is_tight: true, with_stats, ..plain };
                attempt.check_both(&device, "a large offset");
            }
        }
    }
}

/// Where most elements are equal, so are their squared distances from the mean: a long sum in f32, one after the other,
/// rounds all of them to one side.
#[test]
fn statistics_of_long_rows_of_equal_elements_keep_their_digits() {
    for device in devices() {
        for (columns, probability) in
            [(4000, 0.9), (40_000, 0.75), (40_000, 0.9)].into_iter().filter(|(columns, _)| small_enough(columns))
        {
            let case = NormCase { dropout: dropout(probability), ..NormCase::layer(columns) };
            let attempt = NormAttempt::new(case, &[4], DType::F32, Placement::Contiguous);
            attempt.check_both(&device, "a row that is mostly dropped");
            NormAttempt { with_stats: false, ..attempt }.check_backward(&device, "a row that is mostly dropped");
        }
    }
}

#[test]
fn softmax_of_large_and_special_values_is_as_the_contract_says() {
    for device in devices() {
        for (mean, is_log) in [(1e4, false), (-1e4, false), (1e4, true)] {
            let case = SoftmaxCase { is_log, ..SoftmaxCase::new(&[3, 700]) };
            let attempt = SoftmaxAttempt::new(case, DType::F32, Placement::Contiguous);
            SoftmaxAttempt { mean, spread: 5.0, ..attempt }.check_both(&device, "large values");
        }
        for (index, columns) in [5, 200, 400, 600, 5000, 40_000].into_iter().filter(small_enough).enumerate() {
            for (number, dtype) in DTYPES.into_iter().enumerate() {
                // Both ways of each over the lengths and types; long rows take their time.
                let (is_log, with_mask) = (number % 2 == index % 2, (number + index) % 3 != 1);
                check_softmax_of_special_values(&device, dtype, columns, is_log, with_mask, "special values");
                if columns < 3000 {
                    check_softmax_of_special_values(&device, dtype, columns, !is_log, !with_mask, "special values");
                }
            }
        }
    }
}

#[test]
fn a_nan_that_a_row_sees_reaches_what_it_does_not_see() {
    for device in devices() {
        for (index, columns) in [40, 300, 1100, 33_001].into_iter().filter(small_enough).enumerate() {
            for is_log in [false, true] {
                let dtype = DTYPES[index % 3];
                check_softmax_of_a_nan_beside_hidden_columns(&device, dtype, columns, is_log, "a NaN");
            }
        }
    }
}

/// A NaN of a row, and an infinity that leaves a NaN, stay in their row.
#[test]
fn a_nan_makes_its_own_row_nan() {
    for device in devices() {
        for (columns, value) in [(100, f64::NAN), (1100, f64::INFINITY), (9000, f64::NAN)] {
            let attempt = NormAttempt { leading: vec![5], ..layer_norm(columns, DType::F16) };
            let clean = attempt.numbers();
            let mut numbers = clean.clone();
            numbers.x[2 * columns + 1] = value;
            let (clean, outcome) = (attempt.run_on(&device, &clean), attempt.run_on(&device, &numbers));
            let (clean, outcome) = (clean.expect("a valid case"), outcome.expect("a valid case"));
            for (row, (y, clean)) in outcome.y.chunks(columns).zip(clean.y.chunks(columns)).enumerate() {
                // An infinite distance from an infinite mean is none; that of the others times rstd 0 may be anything.
                let is_right = if row == 2 { y[1].is_nan() } else { y == clean };
                assert!(is_right, "row {row} of {columns} on {device}");
            }
        }
    }
}

/// What the results of a row depend on is its own elements: not its place among the others, nor how many these are.
#[test]
fn rows_keep_their_bits_in_another_order_and_number() {
    for device in devices() {
        for (index, columns) in [64, 136, 264, 520, 1032, 33_008].into_iter().filter(small_enough).enumerate() {
            let dtype = DTYPES[index % 3];
            let count = if columns > 3000 { 4 } else { 7 };
            let orders: [Vec<usize>; 3] = [(0..count).rev().collect(), vec![1], vec![3, 0]];
            let attempt = softmax(columns, dtype);
            let attempt = SoftmaxAttempt { case: SoftmaxCase::new(&[count, columns]), ..attempt };
            let numbers = attempt.numbers();
            let forward = attempt.run_on(&device, &numbers).expect("a valid case");
            let backward = attempt.run_backward_on(&device, &numbers).expect("a valid case");
            let pick = |values: &[f64], order: &[usize]| -> Vec<f64> {
                order.iter().flat_map(|row| &values[row * columns..(row + 1) * columns]).copied().collect()
            };
            for order in &orders {
                let numbers = numbers.select(order);
                let what = format!("rows {order:?} of {columns} {dtype} on {device}");
                let y = attempt.run_on(&device, &numbers).expect("a valid case");
                assert!(y == pick(&forward, order), "softmax of {what}");
                let d_x = attempt.run_backward_on(&device, &numbers).expect("a valid case");
                assert!(d_x == pick(&backward, order), "softmax backward of {what}");
            }

            let all = NormAttempt { leading: vec![count], with_residual: true, ..layer_norm(columns, dtype) };
            let all = NormAttempt { with_d_sum: true, with_stats: index % 2 == 0, ..all };
            let numbers = all.numbers();
            let forward = all.run_on(&device, &numbers).expect("a valid case");
            let backward = all.run_backward_on(&device, &numbers).expect("a valid case").d_x;
            for order in &orders {
                let some = NormAttempt { leading: vec![order.len()], ..all.clone() };
                let numbers: NormNumbers = numbers.select(order);
                let what = format!("rows {order:?} of {columns} {dtype} on {device}");
                let outcome = some.run_on(&device, &numbers).expect("a valid case");
                assert!(outcome.y == pick(&forward.y, order), "layer norm of {what}");
                let stats = |outcome: &NormOutcome| outcome.mean.clone().zip(outcome.rstd.clone());
                if let (Some((mean, rstd)), Some((all_mean, all_rstd))) = (stats(&outcome), stats(&forward)) {
                    let is_same = |(at, row): (usize, &usize)| mean[at] == all_mean[*row] && rstd[at] == all_rstd[*row];
                    assert!(order.iter().enumerate().all(is_same), "statistics of {what}");
                }
                let d_x = some.run_backward_on(&device, &numbers).expect("a valid case").d_x;
                assert!(d_x == pick(&backward, order), "layer norm backward of {what}");
            }
        }
    }
}

/// The sums over rows, too, of more rows than one block takes.
#[test]
fn a_second_run_gives_the_same_bits() {
    for device in devices() {
        for (shape, dtype) in [([150, 40], DType::BF16), ([700, 9], DType::F32), ([40, 1100], DType::F16)] {
            let attempt = NormAttempt { leading: vec![shape[0]], with_d_sum: true, ..layer_norm(shape[1], dtype) };
            let numbers = attempt.numbers();
            let run = || {
                let outcome = attempt.run_on(&device, &numbers).expect("a valid case");
                (outcome, attempt.run_backward_on(&device, &numbers).expect("a valid case"))
            };
            assert!(run() == run(), "{shape:?} {dtype} on {device}");
            let attempt = SoftmaxAttempt::new(SoftmaxCase::new(&shape), dtype, Placement::Misaligned);
            let run =
                || (attempt.run(&device).expect("a valid case"), attempt.run_backward(&device).expect("a valid case"));
            assert!(run() == run(), "{shape:?} {dtype} on {device}");
        }
    }
}

/// Sums over few and over many rows, by kernels that take many rows a block and by those that take one.
#[test]
fn gradients_of_weight_and_bias_over_many_rows_agree_with_the_oracle() {
    for device in devices() {
        for (rows, columns) in [(1, 300), (33, 8), (700, 33), (129, 136), (70, 1040), (17, 2000)] {
            for (index, dtype) in DTYPES.into_iter().enumerate() {
                let plain = NormAttempt { leading: vec![rows], ..layer_norm(columns, dtype) };
                NormAttempt { with_stats: index % 2 == 0, ..plain }.check_backward(&device, "sums over rows");
            }
        }
    }
}

/// What is written beside the output does not change it.
#[test]
fn results_that_are_left_out_change_no_bit_of_the_others() {
    for device in devices() {
        for (columns, dtype) in [(40, DType::F16), (1100, DType::F32), (33_001, DType::BF16)] {
            let all = NormAttempt { with_residual: true, ..layer_norm(columns, dtype) };
            let all = NormAttempt { case: NormCase { dropout: dropout(0.5), ..all.case.clone() }, ..all };
            let some = NormAttempt { with_sum: false, with_stats: false, ..all.clone() };
            let (all, some) = (all.run(&device).expect("a valid case"), some.run(&device).expect("a valid case"));
            assert!((some.sum, some.mean, some.rstd) == (None, None, None) && all.sum.is_some());
            assert!(all.y == some.y, "{columns} columns of {dtype} on {device}");
        }
    }
}

fn upload(device: &Device, seed: u64, shape: &[usize]) -> Tensor {
    let numbers = values(seed, shape.iter().product(), 0.3, 1.0, DType::F32);
    crate::common::upload(device, DType::F32, &numbers, shape).expect("a valid tensor")
}

/// The calls that make their own results give what planned calls give.
#[test]
fn owning_calls_give_what_planned_calls_give() {
    for device in devices() {
        let attempt = SoftmaxAttempt::new(SoftmaxCase::new(&[3, 50]), DType::F32, Placement::Contiguous);
        let numbers = attempt.numbers();
        let [x, y, d_y] = [&numbers.x, &numbers.y, &numbers.d_y]
            .map(|values| crate::common::upload(&device, DType::F32, values, &[3, 50]).expect("a valid tensor"));
        let widened =
            |tensor: &Tensor| -> Vec<f64> { tensor.to_vec::<f32>().expect("f32").into_iter().map(f64::from).collect() };
        let softmax = Softmax::new();
        let expected = attempt.run_on(&device, &numbers).expect("a valid case");
        assert_eq!(widened(&softmax.forward(&x).expect("a valid call")), expected);
        let mut replaced = crate::common::upload(&device, DType::F32, &numbers.x, &[3, 50]).expect("a valid tensor");
        softmax.forward_in_place(warpfold::SoftmaxInputs::in_place(), &mut replaced).expect("a valid call");
        assert_eq!(widened(&replaced), expected);
        let expected = attempt.run_backward_on(&device, &numbers).expect("a valid case");
        assert_eq!(widened(&softmax.backward(&y, &d_y).expect("a valid call")), expected);
        let mut replaced = crate::common::upload(&device, DType::F32, &numbers.d_y, &[3, 50]).expect("a valid tensor");
        softmax.backward_in_place(&y, &mut replaced).expect("a valid call");
        assert_eq!(widened(&replaced), expected);

        let dropout = dropout(0.25);
        let case = NormCase { dropout, eps: 1e-3, ..with_vectors(NormCase::layer(50)) };
        let attempt = NormAttempt::new(case, &[3], DType::F32, Placement::Contiguous);
        let attempt = NormAttempt { with_residual: true, with_d_residual: true, with_stats: true, ..attempt };
        let numbers = attempt.numbers();
        let place = |values: &[f64], shape: &[usize]| crate::common::upload(&device, DType::F32, values, shape);
        let rows = |values: &[f64]| place(values, &[3, 50]).expect("a valid tensor");
        let vector = |values: &Option<Vec<f64>>| place(values.as_ref().unwrap(), &[50]).expect("a valid tensor");
        let (x, residual, d_y) = (rows(&numbers.x), rows(numbers.residual.as_ref().unwrap()), rows(&numbers.d_y));
        let (weight, bias) = (vector(&numbers.case.weight), vector(&numbers.case.bias));
        let state = dropout.expect("there is one");
        let norm = attempt.norm().return_stats(true);
        let inputs = NormInputs::new(&x).residual(&residual).weight(&weight).bias(&bias);
        let forward = norm.forward(&inputs.dropout_state(state.seed, state.offset)).expect("a valid call");
        let (sum, mean, rstd) = (forward.sum.unwrap(), forward.mean.unwrap(), forward.rstd.unwrap());
        let outcome = NormOutcome {
            y: widened(&forward.output),
            sum: Some(widened(&sum)),
            mean: Some(widened(&mean)),
            rstd: Some(widened(&rstd)),
        };
        assert_eq!(outcome, attempt.run_on(&device, &numbers).expect("a valid case"));
        let backward = NormBackwardInputs::new(&d_y, &sum).weight(&weight).bias(&bias).mean(&mean).rstd(&rstd);
        let gradients = norm.backward(&backward.dropout_state(state.seed, state.offset)).expect("a valid call");
        let gradients = warpfold::reference::NormGradients {
            d_x: widened(&gradients.d_x),
            d_residual: widened(gradients.d_residual.as_ref().expect("under dropout")),
            d_weight: gradients.d_weight.as_ref().map(widened),
            d_bias: gradients.d_bias.as_ref().map(widened),
        };
        let numbers = NormNumbers { sum: outcome.sum.expect("it was just put there"), ..numbers };
        let verdict = attempt.judge_backward_on(&gradients, &numbers);
        verdict.unwrap_or_else(|mismatch| panic!("owning calls on {device}: {mismatch}"));
    }
}

#[test]
fn a_vector_is_one_row() {
    for device in devices() {
        let x = upload(&device, 1, &[70]);
        let rows = upload(&device, 1, &[1, 70]);
        let norm = Norm::layer().return_stats(true);
        let (one, two) = (norm.forward(&NormInputs::new(&x)), norm.forward(&NormInputs::new(&rows)));
        let (one, two) = (one.expect("a valid call"), two.expect("a valid call"));
        assert_eq!(one.output.to_vec::<f32>(), two.output.to_vec::<f32>());
        let rstd = one.rstd.expect("it was asked for");
        assert_eq!(rstd.shape(), [0usize; 0]);
        assert_eq!(rstd.to_vec::<f32>(), two.rstd.expect("it was asked for").to_vec::<f32>());
        let (one, two) = (Softmax::new().forward(&x), Softmax::new().forward(&rows));
        assert_eq!(one.expect("a valid call").to_vec::<f32>(), two.expect("a valid call").to_vec::<f32>());
        let output_dtype = Norm::rms().output_dtype(DType::BF16).forward(&NormInputs::new(&x));
        assert_eq!(output_dtype.expect("a valid call").output.dtype(), DType::BF16);
    }
}
