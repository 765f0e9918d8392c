//! Softmax over the last axis and its logarithm.

use crate::reference::attention::{Alignment, AttentionCase};

/// A tensor repeated over the leading dimensions that it lacks, and over those of size 1.
#[derive(Clone, Debug, PartialEq)]
pub struct RowBroadcast<T> {
    /// The last dimensions of the problem, each of them or 1.
    pub shape: Vec<usize>,
    /// The elements in row-major order of this shape.
    pub values: Vec<T>,
}

impl<T> RowBroadcast<T> {
    /// Where the value for an element of a tensor of this shape stands, both counted in row-major order.
    pub fn index(&self, shape: &[usize], element: usize) -> usize {
        let (mut rest, mut index, mut stride) = (element, 0, 1);
        let own = self.shape.iter().rev();
        for (size, own_size) in shape.iter().rev().zip(own) {
            if *own_size > 1 {
                index += rest % size * stride;
            }
            rest /= size;
            stride *= own_size;
        }
        index
    }
}

/// Shape and options of one softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxCase {
    /// `[..., columns]`; the last two dimensions are queries and keys for what goes by position.
    pub shape: Vec<usize>,
    /// Factor of x.
    pub scale: f64,
    /// The logarithm is wanted.
    pub is_log: bool,
    /// Added to the scaled x.
    pub bias: Option<RowBroadcast<f64>>,
    /// 0 hides an element.
    pub mask: Option<RowBroadcast<u8>>,
    /// A query sees keys up to its position only.
    pub causal: bool,
    /// A query sees keys from `position - left` to `position + right` only, both included; `None` is unbounded.
    pub window: (Option<usize>, Option<usize>),
    /// Keys below it are seen by every query, whatever `causal` and `window` say.
    pub prefix: usize,
    /// The positions of queries among the keys.
    pub alignment: Alignment,
}

impl SoftmaxCase {
    /// Plain softmax of rows.
    pub fn new(shape: &[usize]) -> SoftmaxCase {
        SoftmaxCase {
            shape: shape.to_vec(),
            scale: 1.0,
            is_log: false,
            bias: None,
            mask: None,
            causal: false,
            window: (None, None),
            prefix: 0,
            alignment: Alignment::BottomRight,
        }
    }

    /// The length of a row.
    pub fn columns(&self) -> usize {
        *self.shape.last().expect("there are rows")
    }

    /// All elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether an element, counted in row-major order, takes part.
    pub fn visible(&self, element: usize) -> bool {
        let columns = self.columns();
        let len_q = self.shape.iter().rev().nth(1).copied().unwrap_or(1);
        let positions = AttentionCase {
            causal: self.causal,
            window: self.window,
            prefix: self.prefix,
            alignment: self.alignment,
            ..AttentionCase::new(1, 1, len_q, columns, 1)
        };
        let shown = |mask: &RowBroadcast<u8>| mask.values[mask.index(&self.shape, element)] != 0;
        positions.visible(0, element / columns % len_q, element % columns) && self.mask.as_ref().is_none_or(shown)
    }

    /// What is added to an element's scaled value.
    pub(in crate::reference) fn added(&self, element: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| bias.values[bias.index(&self.shape, element)])
    }

    /// The result for an element that has no weight.
    pub fn nothing(&self) -> f64 {
        if self.is_log { f64::NEG_INFINITY } else { 0.0 }
    }
}

/// Softmax of each row. A row that sees nothing, or only `-inf`, has no weights; one that sees a NaN or `+inf` is NaN.
pub fn softmax_forward(case: &SoftmaxCase, x: &[f64]) -> Vec<f64> {
    let columns = case.columns();
    let mut y = Vec::with_capacity(x.len());
    for row in 0..x.len() / columns {
        let elements = row * columns..(row + 1) * columns;
        let score = |element| case.visible(element).then(|| case.scale * x[element] + case.added(element));
        let scores: Vec<Option<f64>> = elements.map(score).collect();
        let visible = || scores.iter().flatten();
        if visible().any(|score| score.is_nan() || *score == f64::INFINITY) {
            y.extend(vec![f64::NAN; columns]);
            continue;
        }
        let max = visible().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            y.extend(vec![case.nothing(); columns]);
            continue;
        }
        let sum: f64 = visible().map(|score| (score - max).exp()).sum();
        y.extend(scores.iter().map(|score| match score {
            None => case.nothing(),
            Some(score) if case.is_log => score - max - sum.ln(),
            Some(score) => (score - max).exp() / sum,
        }));
    }
    y
}

/// The gradient of x from a result and its gradient. An element without weight takes no part, whatever its gradient is.
pub fn softmax_backward(case: &SoftmaxCase, y: &[f64], d_y: &[f64]) -> Vec<f64> {
    let columns = case.columns();
    let mut d_x = Vec::with_capacity(y.len());
    for (y, d_y) in y.chunks(columns).zip(d_y.chunks(columns)) {
        let pairs = || y.iter().zip(d_y).filter(|(y, _)| **y != case.nothing());
        let sum: f64 = match case.is_log {
            false => pairs().map(|(y, d_y)| y * d_y).sum(),
            true => pairs().map(|(_, d_y)| d_y).sum(),
        };
        d_x.extend(y.iter().zip(d_y).map(|(y, d_y)| match case.is_log {
            _ if *y == case.nothing() => 0.0,
            false => case.scale * y * (d_y - sum),
            true => case.scale * (d_y - y.exp() * sum),
        }));
    }
    d_x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::attention::ramp;
    use crate::reference::rows::{assert_close, differences};

    const NONE: f64 = f64::NEG_INFINITY;

    fn log(case: &SoftmaxCase) -> SoftmaxCase {
        SoftmaxCase { is_log: true, ..case.clone() }
    }

    fn holes(shape: &[usize]) -> RowBroadcast<u8> {
        let shown = ramp(shape.iter().product(), 100.0).into_iter().map(|value| u8::from(value < 20.0) * 7);
        RowBroadcast { shape: shape.to_vec(), values: shown.collect() }
    }

    fn bias(shape: &[usize]) -> RowBroadcast<f64> {
        RowBroadcast { shape: shape.to_vec(), values: ramp(shape.iter().product(), 3.0) }
    }

    /// One case for each option, and all of them together. Some rows see nothing.
    fn cases() -> Vec<SoftmaxCase> {
        let plain = SoftmaxCase::new(&[2, 3, 5]);
        let mut cases = vec![
            SoftmaxCase::new(&[4]),
            plain.clone(),
            SoftmaxCase { scale: 0.25, ..plain.clone() },
            SoftmaxCase { causal: true, ..plain.clone() },
            SoftmaxCase { causal: true, alignment: Alignment::Offset(-1), ..plain.clone() },
            SoftmaxCase { window: (Some(1), Some(0)), prefix: 2, alignment: Alignment::Offset(3), ..plain.clone() },
        ];
        for shape in [&[2, 3, 5][..], &[3, 5], &[5], &[2, 1, 5], &[2, 3, 1], &[1, 3, 1], &[1]] {
            cases.push(SoftmaxCase { bias: Some(bias(shape)), ..plain.clone() });
            cases.push(SoftmaxCase { mask: Some(holes(shape)), ..plain.clone() });
            let (bias, mask) = (Some(bias(shape)), Some(holes(&[3, 5])));
            cases.push(SoftmaxCase { scale: 1.5, causal: true, prefix: 1, bias, mask, ..plain.clone() });
        }
        let logs: Vec<SoftmaxCase> = cases.iter().map(log).collect();
        cases.extend(logs);
        cases
    }

    #[test]
    fn softmax_of_logarithms_is_their_share() {
        let case = SoftmaxCase::new(&[1, 4]);
        let x = [1f64.ln(), 2f64.ln(), 5f64.ln(), NONE];
        assert_close("y", &softmax_forward(&case, &x), &[0.125, 0.25, 0.625, 0.0], 1e-15);
        let y = softmax_forward(&log(&case), &x);
        assert_close("log y", &y[..3], &[0.125f64.ln(), 0.25f64.ln(), 0.625f64.ln()], 1e-15);
        assert_eq!(y[3], NONE);
        // Half the scale halves the logarithms, and a bias adds to them.
        let bias = Some(RowBroadcast { shape: vec![4], values: vec![3f64.ln(), 0.0, 0.0, 0.0] });
        let case = SoftmaxCase { scale: 0.5, bias, ..case };
        let y = softmax_forward(&case, &[0.0, 4f64.ln(), 9f64.ln(), NONE]);
        assert_close("y", &y, &[3.0 / 8.0, 2.0 / 8.0, 3.0 / 8.0, 0.0], 1e-15);
    }

    #[test]
    fn rows_without_a_weight_are_zero_and_rows_with_a_nan_are_nan() {
        let mask = Some(RowBroadcast { shape: vec![3], values: vec![1, 0, 255] });
        let case = SoftmaxCase { mask, ..SoftmaxCase::new(&[5, 3]) };
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let x = [NONE, 1.0, NONE, nan, 1.0, 0.0, 0.0, 1.0, inf, 3.0, nan, 3.0, NONE, inf, 2.0];
        let y = softmax_forward(&case, &x);
        assert_eq!(y[..3], [0.0; 3]);
        assert!(y[3..9].iter().all(|value| value.is_nan()), "the hidden element of such a row, too: {y:?}");
        // What is hidden is never looked at.
        assert_eq!(y[9..], [0.5, 0.0, 0.5, 0.0, 0.0, 1.0]);
        let y = softmax_forward(&log(&case), &x);
        assert_eq!(y[..3], [NONE; 3]);
        assert!(y[3..9].iter().all(|value| value.is_nan()), "{y:?}");
        assert_eq!(y[9..], [0.5f64.ln(), NONE, 0.5f64.ln(), NONE, NONE, 0.0]);
        let hidden = SoftmaxCase { mask: Some(RowBroadcast { shape: vec![1], values: vec![0] }), ..case };
        assert_eq!(softmax_forward(&hidden, &x), [0.0; 15]);
        assert_eq!(softmax_forward(&log(&hidden), &x), [NONE; 15]);
    }

    #[test]
    fn queries_see_the_keys_of_the_drawing() {
        let draw = |case: &SoftmaxCase| -> Vec<String> {
            let cell = |element: usize| if case.visible(element) { '1' } else { '0' };
            let rows = case.elements() / case.columns();
            (0..rows).map(|row| (row * case.columns()..(row + 1) * case.columns()).map(cell).collect()).collect()
        };
        let causal = SoftmaxCase { causal: true, ..SoftmaxCase::new(&[2, 3, 5]) };
        assert_eq!(draw(&causal), ["11100", "11110", "11111", "11100", "11110", "11111"]);
        let masked = SoftmaxCase { mask: Some(RowBroadcast { shape: vec![2, 1, 1], values: vec![1, 0] }), ..causal };
        assert_eq!(draw(&masked), ["11100", "11110", "11111", "00000", "00000", "00000"]);
        let window = SoftmaxCase {
            window: (Some(0), Some(1)),
            prefix: 1,
            alignment: Alignment::Offset(1),
            ..SoftmaxCase::new(&[2, 4])
        };
        assert_eq!(draw(&window), ["1110", "1011"]);
        assert_eq!(draw(&SoftmaxCase::new(&[3])), ["111"]);
    }

    #[test]
    fn values_are_broadcast_over_missing_dimensions_and_those_of_one() {
        let shape = [2, 3, 4];
        let at =
            |own: &[usize], element| RowBroadcast { shape: own.to_vec(), values: vec![0; 24] }.index(&shape, element);
        let all = |own: &[usize]| (0..24).map(|element| at(own, element)).collect::<Vec<_>>();
        assert_eq!(all(&[2, 3, 4]), (0..24).collect::<Vec<_>>());
        assert_eq!(all(&[3, 4]), (0..24).map(|element| element % 12).collect::<Vec<_>>());
        assert_eq!(all(&[2, 1, 4]), (0..24).map(|element| element / 12 * 4 + element % 4).collect::<Vec<_>>());
        assert_eq!(all(&[2, 3, 1]), (0..24).map(|element| element / 4).collect::<Vec<_>>());
        assert_eq!(all(&[3, 1]), (0..24).map(|element| element / 4 % 3).collect::<Vec<_>>());
        assert_eq!(all(&[1]), [0; 24]);
    }

    #[test]
    fn weights_sum_to_one_and_do_not_see_a_shift() {
        for case in cases().into_iter().filter(|case| !case.is_log) {
            let x = ramp(case.elements(), 5.0);
            let y = softmax_forward(&case, &x);
            for (row, y) in y.chunks(case.columns()).enumerate() {
                let sees = (0..case.columns()).any(|column| case.visible(row * case.columns() + column));
                assert!((y.iter().sum::<f64>() - f64::from(u8::from(sees))).abs() < 1e-14, "row {row} of {case:?}");
            }
            let moved: Vec<f64> = x.iter().map(|value| value + 10.0).collect();
            assert_close("moved y", &softmax_forward(&case, &moved), &y, 1e-12);
            let logarithms = softmax_forward(&log(&case), &x);
            let powers: Vec<f64> = logarithms.iter().map(|value| value.exp()).collect();
            assert_close("exp(log y)", &powers, &y, 1e-14);
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for case in cases() {
            let x = ramp(case.elements(), 4.0);
            let d_y = ramp(case.elements() + 3, 2.0)[3..].to_vec();
            let loss = |case: &SoftmaxCase, x: &[f64]| -> f64 {
                // The logarithm of no weight is -inf whatever x is.
                let products = softmax_forward(case, x).into_iter().zip(&d_y).filter(|(y, _)| y.is_finite());
                products.map(|(y, d_y)| y * d_y).sum()
            };
            let d_x = softmax_backward(&case, &softmax_forward(&case, &x), &d_y);
            assert_close("d_x", &d_x, &differences(&x, |x| loss(&case, x)), 1e-8);
            let Some(bias) = &case.bias else { continue };
            let by_differences = differences(&bias.values, |values| {
                let bias = Some(RowBroadcast { values: values.to_vec(), ..bias.clone() });
                loss(&SoftmaxCase { bias, ..case.clone() }, &x)
            });
            let mut d_bias = vec![0.0; bias.values.len()];
            for (element, d_x) in d_x.iter().enumerate() {
                d_bias[bias.index(&case.shape, element)] += d_x / case.scale;
            }
            assert_close("d_bias", &d_bias, &by_differences, 1e-8);
        }
    }

    #[test]
    fn elements_without_weight_take_no_part_whatever_their_gradient() {
        for case in cases() {
            let y = softmax_forward(&case, &ramp(case.elements(), 4.0));
            let d_y = ramp(case.elements(), 2.0);
            let mut poisoned = d_y.clone();
            for (value, y) in poisoned.iter_mut().zip(&y) {
                if *y == case.nothing() {
                    *value = f64::NAN;
                }
            }
            let d_x = softmax_backward(&case, &y, &d_y);
            assert_eq!(softmax_backward(&case, &y, &poisoned), d_x);
            let hidden = d_x.iter().zip(&y).filter(|(_, y)| **y == case.nothing());
            assert!(hidden.into_iter().all(|(d_x, _)| *d_x == 0.0));
        }
    }
}
