//! Parallel work that writes rows of a strided output: tasks are ranges of rows, and a task can reach its own rows
//! only. The one unsafe step of the CPU device outside `simd/`: it hands out disjoint parts of one slice.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::tensor::Layout;

/// Where the tasks write: rows of a tensor, and up to two f32 values a row.
pub(crate) struct RowOutputs<'a, T> {
    values: &'a mut [T],
    leading: Layout,
    columns: usize,
    per_row: [Option<&'a mut [f32]>; 2],
}

impl<'a, T: Send> RowOutputs<'a, T> {
    /// The rows of a tensor whose elements do not overlap; `values` starts at its first element.
    pub fn new(values: &'a mut [T], layout: &Layout, per_row: [Option<&'a mut [f32]>; 2]) -> RowOutputs<'a, T> {
        let (columns, shape) = layout.shape().split_last().expect("an output has rows");
        let strides = &layout.strides()[..shape.len()];
        // These two checks are what makes the row references disjoint and in bounds.
        assert!(!layout.overlaps(), "outputs are checked for overlap when they are planned");
        let leading = Layout::strided(shape, strides, 0).expect("a part of a valid layout is valid");
        let reach = if layout.num_elements() == 0 { 0 } else { leading.end() - 1 + columns };
        assert!(reach <= values.len(), "outputs are checked to fit their memory");
        assert!(*columns <= 1 || layout.strides()[shape.len()] == 1, "rows are contiguous");
        for stat in per_row.iter().flatten() {
            assert!(stat.len() >= leading.num_elements(), "there is one statistic a row");
        }
        RowOutputs { values, leading, columns: *columns, per_row }
    }

    /// Splits each group of `group_rows` rows into tasks of at most `task_rows` and runs them all, one scratch slot a
    /// thread. Which thread runs a task does not show in the result.
    pub fn for_each_task<S: Send>(
        mut self,
        group_rows: usize,
        task_rows: usize,
        slots: &mut [S],
        task: impl Fn(&mut S, Range<usize>, &mut RowWriter<'_, T>) + Sync,
    ) {
        let rows = self.leading.num_elements();
        if rows == 0 {
            return;
        }
        let per_group = group_rows.div_ceil(task_rows);
        let tasks = rows / group_rows * per_group;
        let shared = Shared {
            values: self.values.as_mut_ptr(),
            per_row: self.per_row.each_mut().map(|stat| stat.as_mut().map(|stat| stat.as_mut_ptr())),
            leading: self.leading,
            columns: self.columns,
            _borrow: PhantomData,
        };
        let next = AtomicUsize::new(0);
        slots.par_iter_mut().with_max_len(1).for_each(|slot| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    return;
                }
                let first = index % per_group * task_rows;
                let group = index / per_group * group_rows;
                let range = group + first..group + (first + task_rows).min(group_rows);
                task(slot, range.clone(), &mut RowWriter { shared: &shared, range });
            }
        });
    }
}

struct Shared<'a, T> {
    values: *mut T,
    per_row: [Option<*mut f32>; 2],
    leading: Layout,
    columns: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

/// Mutable access to the rows of one task.
pub(crate) struct RowWriter<'a, T> {
    shared: &'a Shared<'a, T>,
    range: Range<usize>,
}

#[allow(unsafe_code, reason = "threads write disjoint rows of one slice")]
mod unsafe_rows {
    use super::*;

    // SAFETY: the pointers come from exclusive borrows that outlive every task, and tasks only reach the rows of their
    // own range through `RowWriter`, so sharing them between threads shares no element.
    unsafe impl<T: Send> Sync for Shared<'_, T> {}

    impl<T> RowWriter<'_, T> {
        /// Row `row`, which must lie in the task's range.
        pub fn row(&mut self, row: usize) -> &mut [T] {
            assert!(self.range.contains(&row), "a task writes its own rows only");
            let start = offset_of(&self.shared.leading, row);
            // SAFETY: `RowOutputs::new` checked that every row lies within the slice and that no two rows overlap;
            // each row belongs to exactly one task, and `&mut self` keeps this task to one reference at a time.
            unsafe { std::slice::from_raw_parts_mut(self.shared.values.add(start), self.shared.columns) }
        }

        /// Sets statistic `index` of row `row`, if it was asked for.
        pub fn set_stat(&mut self, index: usize, row: usize, value: f32) {
            assert!(self.range.contains(&row), "a task writes its own rows only");
            if let Some(stat) = self.shared.per_row[index] {
                // SAFETY: `RowOutputs::new` checked that there is one value a row; each row belongs to one task.
                unsafe { *stat.add(row) = value };
            }
        }
    }
}

/// The offset of row `row`, counted in row-major order of the leading dimensions.
fn offset_of(leading: &Layout, row: usize) -> usize {
    let mut rest = row;
    let mut offset = 0;
    for (size, stride) in leading.shape().iter().zip(leading.strides()).rev() {
        offset += rest % size * stride;
        rest /= size;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_written_once_by_its_task() {
        let layout = Layout::contiguous(&[3, 7, 2, 5]).unwrap().transpose(1, 2).unwrap();
        let mut values = vec![0.0f32; 210];
        let mut stats = vec![0.0f32; 42];
        let outputs = RowOutputs::new(&mut values, &layout, [Some(&mut stats), None]);
        outputs.for_each_task(7, 3, &mut [(), (), ()], |(), range, writer| {
            for row in range {
                writer.row(row).iter_mut().for_each(|value| *value += row as f32 + 1.0);
                writer.set_stat(0, row, row as f32);
            }
        });
        for (row, stat) in stats.iter().enumerate() {
            let (b, l, h) = (row / 14, row % 7, row / 7 % 2);
            let start = b * 70 + l * 10 + h * 5;
            assert_eq!(values[start..start + 5], [row as f32 + 1.0; 5]);
            assert_eq!(*stat, row as f32);
        }
    }

    #[test]
    #[should_panic(expected = "its own rows only")]
    fn a_foreign_row_is_refused() {
        let mut values = vec![0.0f32; 8];
        let layout = Layout::contiguous(&[4, 2]).unwrap();
        RowOutputs::new(&mut values, &layout, [None, None])
            .for_each_task(4, 2, &mut [()], |(), range, writer| writer.row((range.end + 1) % 4)[0] = 1.0);
    }
}
