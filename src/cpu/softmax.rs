//! Softmax forward on the CPU: rows in parallel, one row in f32 scratch at a time.

use crate::cpu::row_tasks::RowOutputs;
use crate::cpu::{dispatch_float, simd};
use crate::error::Result;
use crate::rows::Rows;
use crate::tensor::{Float, TensorMut, TensorRef};
use crate::workspace::Workspace;

/// Rows of a task: enough to outweigh the cost of taking one.
pub(super) fn task_rows(columns: usize) -> usize {
    (4096 / columns).max(1)
}

pub(crate) fn forward(rows: &Rows, x: &TensorRef<'_>, y: &mut TensorMut<'_>, workspace: &mut Workspace) -> Result<()> {
    workspace.check(rows.columns)?;
    dispatch_float!(rows.dtype, forward_typed(rows, x, y, workspace))
}

fn forward_typed<T: Float>(
    rows: &Rows,
    x: &TensorRef<'_>,
    y: &mut TensorMut<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let x = x.host::<T>()?;
    let layout = *y.layout();
    let outputs = RowOutputs::new(y.host_mut::<T>()?, &layout, [None, None]);
    outputs.for_each_task(rows.rows, task_rows(rows.columns), &mut workspace.slots, |slot, range, writer| {
        let values = &mut slot[..rows.columns];
        for row in range {
            T::widen(&x[rows.start(row, &rows.x_strides)..][..rows.columns], values);
            let max = simd::max(values);
            // A row of -inf must not compute -inf - -inf; its sum is 0, and so is its output.
            let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let sum = simd::exp2_sum(values, base, std::f32::consts::LOG2_E);
            simd::scale(values, if sum == 0.0 { 0.0 } else { 1.0 / sum });
            T::narrow(values, writer.row(row));
        }
    });
    Ok(())
}
