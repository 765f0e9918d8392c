//! Merging partial results of attention on the CPU: rows in parallel.

use crate::attention::Merge;
use crate::cpu::attention::inputs::{HeadRows, RowsAt};
use crate::cpu::dispatch_float;
use crate::cpu::row_tasks::RowOutputs;
use crate::error::Result;
use crate::tensor::{Float, TensorMut, TensorRef};

/// Rows of a task: enough to outweigh the cost of taking one.
const TASK_ROWS: usize = 64;
/// Columns that are summed at a time.
const COLUMNS: usize = 64;
/// More threads than this are left idle, as there is no workspace with one slot a thread.
const THREADS_MAX: usize = 512;

/// `reads` are the partial outputs, their lses and the sinks, each in its place or absent.
pub(crate) fn merge(
    merge: &Merge,
    reads: &[Option<TensorRef<'_>>; 2 * Merge::PARTS_MAX + 1],
    output: TensorMut<'_>,
    lse: Option<TensorMut<'_>>,
) -> Result<()> {
    dispatch_float!(merge.output.dtype, merge_typed(merge, reads, output, lse))
}

fn merge_typed<O: Float>(
    merge: &Merge,
    reads: &[Option<TensorRef<'_>>; 2 * Merge::PARTS_MAX + 1],
    mut output: TensorMut<'_>,
    mut lse: Option<TensorMut<'_>>,
) -> Result<()> {
    let &[_, heads, len, columns] = merge.part.layout.shape() else {
        unreachable!("states are seen with 4 dimensions")
    };
    let mut parts: [Option<(HeadRows<'_, f32>, &[f32])>; Merge::PARTS_MAX] = [const { None }; Merge::PARTS_MAX];
    for (index, part) in parts.iter_mut().enumerate() {
        if let (Some(output), Some(lse)) = (&reads[index], &reads[Merge::PARTS_MAX + index]) {
            *part = Some((HeadRows::new(output)?, lse.host()?));
        }
    }
    let sinks = reads[2 * Merge::PARTS_MAX].map(|sinks| sinks.host::<f32>()).transpose()?;
    let layout = *output.layout();
    let lse = lse.as_mut().map(|lse| lse.host_mut::<f32>()).transpose()?;
    let rows = RowOutputs::new(output.host_mut::<O>()?, &layout, [lse, None]);
    let threads = rayon::current_num_threads().min(THREADS_MAX);
    rows.for_each_task(len, TASK_ROWS, &mut [(); THREADS_MAX][..threads], |(), range, writer| {
        for row in range {
            let (head, at) = (row / len, row % len);
            let at = RowsAt { entry: head / heads, head: head % heads, first: at };
            let lses = parts.each_ref().map(|part| part.as_ref().map_or(f32::NEG_INFINITY, |(_, lse)| lse[row]));
            let shares = Shares::new(lses, sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head % heads]));
            for first in (0..columns).step_by(COLUMNS) {
                let count = COLUMNS.min(columns - first);
                let mut sums = [0.0f32; COLUMNS];
                for (index, part) in parts.iter().enumerate() {
                    // A part without keys takes no part, whatever its output holds.
                    let Some((output, lse)) = part else { continue };
                    if lse[row] == f32::NEG_INFINITY {
                        continue;
                    }
                    let values = &output.row(at, 0)[first..first + count];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += shares.weights[index] * value);
                }
                O::narrow(&sums[..count], &mut writer.row(row)[first..first + count]);
            }
            writer.set_stat(0, row, shares.lse);
        }
    });
    Ok(())
}

/// What each part contributes to a row.
struct Shares {
    weights: [f32; Merge::PARTS_MAX],
    lse: f32,
}

impl Shares {
    /// A part, or a sink, that takes no part has `-inf`.
    fn new(lses: [f32; Merge::PARTS_MAX], sink: f32) -> Shares {
        let max = lses.iter().copied().fold(sink, f32::max);
        if lses.iter().chain([&sink]).all(|lse| *lse == f32::NEG_INFINITY) {
            return Shares { weights: [0.0; Merge::PARTS_MAX], lse: f32::NEG_INFINITY };
        }
        let exponentials = lses.map(|lse| (lse - max).exp());
        let sum = exponentials.iter().sum::<f32>() + (sink - max).exp();
        Shares { weights: exponentials.map(|exponential| exponential / sum), lse: max + sum.ln() }
    }
}
