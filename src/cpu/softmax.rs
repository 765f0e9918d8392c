//! Softmax on the CPU: rows in parallel, one row in f32 scratch at a time.

use std::ops::Range;

use crate::cpu::floats::{Floats, FloatsMut, InputRows, store_of};
use crate::cpu::row_tasks::RowOutputs;
use crate::cpu::scratch::{scratch_total, split};
use crate::cpu::simd::{self, InstructionSet, Store};
use crate::error::Result;
use crate::rows::RowsOf;
use crate::softmax::{SoftmaxBackwardProblem, SoftmaxInputs, SoftmaxProblem};
use crate::tensor::{TensorMut, TensorRef};
use crate::workspace::Workspace;

/// Rows of a task: enough to outweigh the cost of taking one.
pub(super) fn task_rows(columns: usize) -> usize {
    (16384 / columns).max(1)
}

/// The slots of the threads that share rows of so many elements: that of the caller alone where it is done before another thread
/// has woken. It is about 0.1 ms of work.
pub(super) fn threads_for<S>(slots: &mut [S], elements: usize) -> &mut [S] {
    let threads = if elements <= 1 << 17 { slots.len().min(1) } else { slots.len() };
    &mut slots[..threads]
}

/// The scratch memory of a thread in f32, forward and backward: a row that is computed, and one that is read.
pub(crate) fn scratch_elements(columns: usize) -> usize {
    scratch_total([columns; 2])
}

pub(crate) fn forward(
    set: InstructionSet,
    problem: &SoftmaxProblem,
    inputs: &SoftmaxInputs<'_>,
    y: &mut TensorMut<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let rows = &problem.rows;
    workspace.check(scratch_elements(rows.columns))?;
    let forward = Forward {
        set,
        problem,
        x: inputs.x.as_ref().map(|x| InputRows::new(rows, SoftmaxProblem::X, x)).transpose()?,
        bias: inputs.bias.as_ref().map(|bias| InputRows::new(rows, SoftmaxProblem::BIAS, bias)).transpose()?,
        mask: inputs.mask.as_ref().map(|mask| mask.host::<u8>()).transpose()?,
        store: store_of(y),
    };
    let outputs = RowOutputs::of_tensors([Some(y), None], [None, None])?;
    let slots = threads_for(&mut workspace.slots, rows.rows * rows.columns);
    outputs.for_each_task(rows.rows, task_rows(rows.columns), slots, |slot, range, writer| {
        for row in range {
            let [y, _] = writer.parts(row).tensors;
            forward.row(row, split(slot, [rows.columns; 2]), y.expect("there is an output"));
        }
    });
    Ok(())
}

struct Forward<'a> {
    set: InstructionSet,
    problem: &'a SoftmaxProblem,
    /// Absent where x is what the output holds.
    x: Option<InputRows<'a, 4>>,
    bias: Option<InputRows<'a, 4>>,
    mask: Option<&'a [u8]>,
    store: Store,
}

impl Forward<'_> {
    /// Computes a row of y. Both areas of scratch memory have its length.
    fn row(&self, row: usize, [values, scratch]: [&mut [f32]; 2], mut y: FloatsMut<'_>) {
        let Forward { set, problem: SoftmaxProblem { scale, is_log, .. }, store, .. } = *self;
        let [visible, gap] = self.visible(row);
        let is_changed = self.bias.is_some() || self.mask.is_some() || !gap.is_empty();
        let sum = match &self.x {
            Some(x) if !is_changed => {
                let x = x.typed(set, row, visible.clone(), &mut values[..visible.len()]);
                simd::softmax(set, x, y.range(visible.clone()), scratch, *scale, *is_log, store)
            }
            x => {
                match x {
                    Some(x) => x.read(set, row, visible.clone(), &mut values[visible.clone()]),
                    None => y.read(set, values),
                }
                self.change(row, values, scratch, [visible.clone(), gap]);
                let x = Floats::F32(&values[visible.clone()]);
                simd::softmax(set, x, y.range(visible.clone()), scratch, 1.0, *is_log, store)
            }
        };
        // A NaN that is seen is one in the whole row.
        let nothing = if *is_log { f32::NEG_INFINITY } else { 0.0 };
        let hidden = if sum.is_nan() { f32::NAN } else { nothing };
        let columns = values.len();
        y.fill(0..visible.start, hidden);
        y.fill(visible.end..columns, hidden);
    }

    /// Scales x, adds the bias and hides what the mask and the gap hide. What x holds outside of what is visible does not matter.
    fn change(&self, row: usize, values: &mut [f32], scratch: &mut [f32], [visible, gap]: [Range<usize>; 2]) {
        let set = self.set;
        let SoftmaxProblem { rows, scale, .. } = self.problem;
        let s = &mut values[visible.clone()];
        if *scale != 1.0 {
            simd::scale(set, s, *scale);
        }
        if let Some(bias) = &self.bias {
            simd::add(set, s, bias.row(set, row, visible.clone(), &mut scratch[..visible.len()]));
        }
        if let Some(mask) = self.mask {
            let mask = &mask[rows.start(SoftmaxProblem::MASK, row)..];
            match rows.tensors[SoftmaxProblem::MASK] {
                Some(RowsOf { column: 0, .. }) if mask[0] == 0 => s.fill(f32::NEG_INFINITY),
                Some(RowsOf { column: 0, .. }) => {}
                _ => simd::hide(set, s, &mask[visible.clone()]),
            }
        }
        values[gap].fill(f32::NEG_INFINITY);
    }

    /// The columns that a row sees by its position: all of a range, but for a gap in it.
    fn visible(&self, row: usize) -> [Range<usize>; 2] {
        let Some((len_q, band)) = &self.problem.band else { return [0..self.problem.rows.columns, 0..0] };
        match band.keys(row % len_q) {
            [prefix, window] if window.is_empty() => [prefix, 0..0],
            [prefix, window] if prefix.is_empty() => [window, 0..0],
            [prefix, window] => [prefix.start..window.end, prefix.end..window.start],
        }
    }
}

/// Without d_y, it is what d_x holds.
pub(crate) fn backward(
    set: InstructionSet,
    problem: &SoftmaxBackwardProblem,
    y: TensorRef<'_>,
    d_y: Option<TensorRef<'_>>,
    d_x: &mut TensorMut<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let SoftmaxBackwardProblem { rows, scale, is_log, .. } = problem;
    let columns = rows.columns;
    workspace.check(scratch_elements(columns))?;
    let y = InputRows::new(rows, SoftmaxBackwardProblem::Y, &y)?;
    let d_y = d_y.as_ref().map(|d_y| InputRows::new(rows, SoftmaxBackwardProblem::D_Y, d_y)).transpose()?;
    let compute = if *is_log { simd::log_softmax_gradients } else { simd::softmax_gradients };
    let outputs = RowOutputs::of_tensors([Some(d_x), None], [None, None])?;
    let slots = threads_for(&mut workspace.slots, rows.rows * columns);
    outputs.for_each_task(rows.rows, task_rows(columns), slots, |slot, range, writer| {
        let [values, scratch] = split(slot, [columns; 2]);
        for row in range {
            let y = y.row(set, row, 0..columns, scratch);
            let [d_x, _] = writer.parts(row).tensors;
            d_x.expect("there is an output").in_f32(set, values, d_y.is_none(), |d_x| {
                if let Some(d_y) = &d_y {
                    d_y.read(set, row, 0..columns, d_x);
                }
                compute(set, y, d_x, *scale);
            });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::attention::Mask;
    use crate::cpu::floats::tests::{assert_close, tensor, wide, with_any_threads};
    use crate::device::Device;
    use crate::dtype::DType;
    use crate::softmax::{Softmax, SoftmaxInputs};
    use crate::tensor::Tensor;

    fn softmax(s: &[f64], is_log: bool) -> Vec<f64> {
        let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = s.iter().map(|s| (s - max).exp()).sum();
        s.iter().map(|s| if is_log { s - max - sum.ln() } else { (s - max).exp() / sum }).collect()
    }

    #[test]
    fn every_option_at_once_is_the_formula() {
        const COLUMNS: usize = 37;
        let mask = |query: usize, key: usize| !(query + key).is_multiple_of(5);
        // A window of 3 and 1 keys around the position, which is the query's number, and a prefix of two keys.
        let band = |query: usize, key: usize| key < 2 || (key + 3 >= query && key <= query + 1);
        let visible = |query: usize, key: usize| mask(query, key) && band(query, key);
        let values = |row: usize, column: usize| ((row * 31 + column * 17) % 23) as f32 * 0.25 - 2.0;
        let dtypes = [DType::F32, DType::F16, DType::BF16];
        for (dtype, is_log) in dtypes.into_iter().flat_map(|dtype| [(dtype, false), (dtype, true)]) {
            // Rows (entry, query) lie the other way around in memory, and what is hidden holds NaN.
            let x = tensor(dtype, &[9, 2, COLUMNS], |index| {
                let (query, entry, column) = (index / COLUMNS / 2, index / COLUMNS % 2, index % COLUMNS);
                if visible(query, column) { values(entry * 9 + query, column) } else { f32::NAN }
            });
            let bias = tensor(if is_log { dtype } else { DType::F32 }, &[9, COLUMNS], |index| {
                if visible(index / COLUMNS, index % COLUMNS) { (index % 7) as f32 * 0.5 } else { f32::NAN }
            });
            let mask: Vec<u8> = (0..9 * COLUMNS).map(|index| mask(index / COLUMNS, index % COLUMNS).into()).collect();
            let mask = Tensor::from_slice(&Device::cpu(), &mask, [9, COLUMNS]).unwrap();
            let operation =
                Softmax::new().scale(0.75).log(is_log).mask(Mask::none().offset(0).window(Some(3), Some(1)).prefix(2));
            let seen = x.view().transpose(0, 1).unwrap();
            let y = with_any_threads(|| {
                wide(&operation.forward(SoftmaxInputs::new(seen).bias(&bias).mask(&mask)).unwrap())
            });
            for (row, y) in y.chunks(COLUMNS).enumerate() {
                let query = row % 9;
                let seen: Vec<usize> = (0..COLUMNS).filter(|key| visible(query, *key)).collect();
                let s = |key: &usize| 0.75 * f64::from(values(row, *key)) + ((query * COLUMNS + key) % 7) as f64 * 0.5;
                let mut expected = vec![if is_log { f64::NEG_INFINITY } else { 0.0 }; COLUMNS];
                let shares = softmax(&seen.iter().map(s).collect::<Vec<_>>(), is_log);
                seen.iter().zip(shares).for_each(|(key, share)| expected[*key] = share);
                assert_close(y, &expected, if dtype == DType::F32 { 1e-6 } else { 8e-3 });
            }

            let mut replaced = x;
            let view = replaced.view_mut().transpose(0, 1).unwrap();
            operation.forward_in_place(SoftmaxInputs::in_place().bias(&bias).mask(&mask), view).unwrap();
            assert_eq!(wide(replaced.view().transpose(0, 1).unwrap()), y);
        }
    }

    #[test]
    fn rows_of_special_values() {
        const INF: f32 = f32::INFINITY;
        let rows = [[-INF, -INF, -INF], [1.0, -INF, 1.0], [0.0, f32::NAN, 1.0], [0.0, INF, 1.0], [3e38, 3e38, -3e38]];
        let x = Tensor::from_slice(&Device::cpu(), rows.as_flattened(), [5, 3]).unwrap();
        let nan = [f64::NAN; 3];
        let expected = [[0.0; 3], [0.5, 0.0, 0.5], nan, nan, [0.5, 0.5, 0.0]];
        assert_close(&wide(&Softmax::new().forward(&x).unwrap()), expected.as_flattened(), 1e-6);
        let logarithm = expected.map(|row| row.map(f64::ln));
        assert_close(&wide(&Softmax::new().log(true).forward(&x).unwrap()), logarithm.as_flattened(), 1e-6);

        // A mask that is repeated along the columns hides whole rows, and a bias is added to whole rows.
        let mask = Tensor::from_slice(&Device::cpu(), &[1u8, 1, 0, 0, 1], [5, 1]).unwrap();
        let bias = tensor(DType::F32, &[5, 1], |row| if row == 4 { -1.0 } else { 1.0 });
        let y = Softmax::new().forward(SoftmaxInputs::new(&x).mask(&mask).bias(&bias)).unwrap();
        let expected = [[0.0; 3], [0.5, 0.0, 0.5], [0.0; 3], [0.0; 3], [0.5, 0.5, 0.0]];
        assert_close(&wide(&y), expected.as_flattened(), 1e-6);
    }

    #[test]
    fn gradients_are_the_formula_where_there_is_a_share() {
        const COLUMNS: usize = 53;
        let hidden = |index: usize| index % 11 == 3;
        for (dtype, is_log) in [(DType::F32, false), (DType::F32, true), (DType::BF16, false), (DType::F16, true)] {
            let nothing = if is_log { f32::NEG_INFINITY } else { 0.0 };
            let y = tensor(dtype, &[6, COLUMNS], |index| {
                let y = ((index * 7) % 13) as f32 / 340.0 + 1e-3;
                if hidden(index) {
                    nothing
                } else if is_log {
                    y.ln()
                } else {
                    y
                }
            });
            let d_y = tensor(dtype, &[6, COLUMNS], |index| {
                if hidden(index) { f32::NAN } else { ((index * 5) % 17) as f32 * 0.3 - 2.0 }
            });
            let operation = Softmax::new().scale(1.5).log(is_log);
            let d_x = with_any_threads(|| wide(&operation.backward(&y, &d_y).unwrap()));
            let (wide_y, wide_d_y) = (wide(&y), wide(&d_y));
            for (row, d_x) in d_x.chunks(COLUMNS).enumerate() {
                let at = |column: usize| (row * COLUMNS + column, wide_y[row * COLUMNS + column]);
                let seen: Vec<usize> = (0..COLUMNS).filter(|column| !hidden(at(*column).0)).collect();
                let term = |column: &usize| wide_d_y[at(*column).0] * if is_log { 1.0 } else { at(*column).1 };
                let total: f64 = seen.iter().map(term).sum();
                let mut expected = vec![0.0; COLUMNS];
                for column in seen {
                    let ((index, y), d_y) = (at(column), wide_d_y[at(column).0]);
                    assert_eq!(index, row * COLUMNS + column);
                    expected[column] = 1.5 * if is_log { d_y - y.exp() * total } else { y * (d_y - total) };
                }
                assert_close(d_x, &expected, if dtype == DType::F32 { 1e-5 } else { 1e-2 });
            }
            let mut replaced = d_y;
            operation.backward_in_place(&y, &mut replaced).unwrap();
            assert_eq!(wide(&replaced), d_x);
        }
    }
}
