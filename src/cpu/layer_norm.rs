//! Layer norm forward on the CPU: rows in parallel, one row in f32 scratch at a time.

use crate::cpu::row_tasks::RowOutputs;
use crate::cpu::softmax::task_rows;
use crate::cpu::{dispatch_float, simd};
use crate::error::Result;
use crate::norm::{LayerNormInputs, LayerNormOutputs};
use crate::rows::Rows;
use crate::tensor::Float;
use crate::workspace::Workspace;

pub(crate) fn forward(
    rows: &Rows,
    eps: f32,
    inputs: &LayerNormInputs<'_>,
    outputs: &mut LayerNormOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    workspace.check(rows.columns)?;
    dispatch_float!(rows.dtype, forward_typed(rows, eps, inputs, outputs, workspace))
}

fn forward_typed<T: Float>(
    rows: &Rows,
    eps: f32,
    inputs: &LayerNormInputs<'_>,
    outputs: &mut LayerNormOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let x = inputs.x.host::<T>()?;
    let weight = inputs.weight.map(|weight| weight.host::<T>()).transpose()?;
    let bias = inputs.bias.map(|bias| bias.host::<T>()).transpose()?;
    let layout = *outputs.output.layout();
    let mean = outputs.mean.as_mut().map(|mean| mean.host_mut::<f32>()).transpose()?;
    let rstd = outputs.rstd.as_mut().map(|rstd| rstd.host_mut::<f32>()).transpose()?;
    let row_outputs = RowOutputs::new(outputs.output.host_mut::<T>()?, &layout, [mean, rstd]);
    row_outputs.for_each_task(rows.rows, task_rows(rows.columns), &mut workspace.slots, |slot, range, writer| {
        let values = &mut slot[..rows.columns];
        for row in range {
            T::widen(&x[rows.start(row, &rows.x_strides)..][..rows.columns], values);
            let count = rows.columns as f32;
            // Summing distances from the first element keeps the digits of rows with a large offset.
            let mean = values[0] + simd::central_sum(values, values[0], 1) / count;
            let rstd = 1.0 / (simd::central_sum(values, mean, 2) / count + eps).sqrt();
            for (column, value) in values.iter_mut().enumerate() {
                let normalized = (*value - mean) * rstd;
                let weight = weight.map_or(1.0, |weight| weight[column].to_f32());
                *value = normalized * weight + bias.map_or(0.0, |bias| bias[column].to_f32());
            }
            T::narrow(values, writer.row(row));
            writer.set_stat(0, row, mean);
            writer.set_stat(1, row, rstd);
        }
    });
    Ok(())
}
