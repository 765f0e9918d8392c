//! Parallel work that writes rows of strided outputs: tasks are ranges of rows, and a task can reach its own rows
//! only. The one unsafe step of the CPU device outside `simd/`: it hands out disjoint parts of slices.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::tensor::Layout;

/// Where the tasks write: the rows of one or two tensors, and up to two f32 values a row.
pub(crate) struct RowOutputs<'a, T> {
    tensors: [Option<Rows<'a, T>>; 2],
    per_row: [Option<&'a mut [f32]>; 2],
    rows: usize,
}

/// The rows of one tensor.
struct Rows<'a, T> {
    values: &'a mut [T],
    leading: Layout,
    columns: usize,
}

impl<'a, T> Rows<'a, T> {
    fn new(values: &'a mut [T], layout: &Layout) -> Rows<'a, T> {
        let (columns, shape) = layout.shape().split_last().expect("an output has rows");
        let strides = &layout.strides()[..shape.len()];
        // These checks are what makes the row references disjoint and in bounds.
        assert!(!layout.overlaps(), "outputs are checked for overlap when they are planned");
        let leading = Layout::strided(shape, strides, 0).expect("a part of a valid layout is valid");
        let reach = if layout.num_elements() == 0 { 0 } else { leading.end() - 1 + columns };
        assert!(reach <= values.len(), "outputs are checked to fit their memory");
        assert!(*columns <= 1 || layout.strides()[shape.len()] == 1, "rows are contiguous");
        Rows { values, leading, columns: *columns }
    }

    /// The number of rows; rows without an element are none.
    fn count(&self) -> usize {
        if self.columns == 0 { 0 } else { self.leading.num_elements() }
    }
}

impl<'a, T: Send> RowOutputs<'a, T> {
    /// The rows of a tensor whose elements do not overlap; `values` starts at its first element.
    pub fn new(values: &'a mut [T], layout: &Layout, per_row: [Option<&'a mut [f32]>; 2]) -> RowOutputs<'a, T> {
        let rows = Rows::new(values, layout);
        let count = rows.count();
        for stat in per_row.iter().flatten() {
            assert!(stat.len() >= count, "there is one statistic a row");
        }
        RowOutputs { tensors: [Some(rows), None], per_row, rows: count }
    }

    /// The rows of two tensors that have equally many, of which either may be absent: a task writes the same rows of both.
    pub fn pair(tensors: [Option<(&'a mut [T], Layout)>; 2]) -> RowOutputs<'a, T> {
        let tensors = tensors.map(|tensor| tensor.map(|(values, layout)| Rows::new(values, &layout)));
        let mut counts = tensors.iter().flatten().map(Rows::count);
        let rows = counts.next().unwrap_or(0);
        assert!(counts.all(|count| count == rows), "tensors that are written together have equally many rows");
        RowOutputs { tensors, per_row: [None, None], rows }
    }

    /// Splits each group of `group_rows` rows into tasks of at most `task_rows` and runs them all, one scratch slot a
    /// thread. Which thread runs a task does not show in the result.
    pub fn for_each_task<S: Send>(
        self,
        group_rows: usize,
        task_rows: usize,
        slots: &mut [S],
        task: impl Fn(&mut S, Range<usize>, &mut RowWriter<'_, T>) + Sync,
    ) {
        self.run(group_rows, [task_rows, usize::MAX], slots, |slot, rows, _, writer| task(slot, rows, writer));
    }

    /// As [`RowOutputs::for_each_task`], and splits the rows of the one tensor too, into at most `task_size[1]` columns: a
    /// task owns a rectangle, `rows` by `columns`.
    pub fn for_each_tile<S: Send>(
        self,
        group_rows: usize,
        task_size: [usize; 2],
        slots: &mut [S],
        task: impl Fn(&mut S, Range<usize>, Range<usize>, &mut RowWriter<'_, T>) + Sync,
    ) {
        assert!(self.tensors[1].is_none() && self.per_row.iter().all(Option::is_none), "one tensor has tiles");
        self.run(group_rows, task_size, slots, task);
    }

    fn run<S: Send>(
        mut self,
        group_rows: usize,
        task_size: [usize; 2],
        slots: &mut [S],
        task: impl Fn(&mut S, Range<usize>, Range<usize>, &mut RowWriter<'_, T>) + Sync,
    ) {
        if self.rows == 0 {
            return;
        }
        // The first tensor may be absent, and then its columns do not matter, but for being one task across.
        let columns = self.tensors[0].as_ref().map_or(1, |tensor| tensor.columns);
        let across = columns.div_ceil(task_size[1]);
        assert!(self.rows.is_multiple_of(group_rows), "there are whole groups of rows");
        let per_group = group_rows.div_ceil(task_size[0]);
        let tasks = self.rows / group_rows * per_group * across;
        let shared = Shared {
            tensors: self.tensors.each_mut().map(|tensor| {
                tensor.as_mut().map(|Rows { values, leading, columns }| (values.as_mut_ptr(), *leading, *columns))
            }),
            per_row: self.per_row.each_mut().map(|stat| stat.as_mut().map(|stat| stat.as_mut_ptr())),
            _borrow: PhantomData,
        };
        let next = AtomicUsize::new(0);
        slots.par_iter_mut().with_max_len(1).for_each(|slot| {
            loop {
                // Every index is taken once, and different indices are different rectangles.
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    return;
                }
                let (row_task, column_task) = (index / across, index % across);
                let first = row_task % per_group * task_size[0];
                let group = row_task / per_group * group_rows;
                let rows = group + first..group + (first + task_size[0]).min(group_rows);
                let left = column_task * task_size[1];
                let tile = left..left.saturating_add(task_size[1]).min(columns);
                task(slot, rows.clone(), tile.clone(), &mut RowWriter { shared: &shared, rows, columns: tile });
            }
        });
    }
}

struct Shared<'a, T> {
    /// First element, layout of the rows' first elements, columns.
    tensors: [Option<(*mut T, Layout, usize)>; 2],
    per_row: [Option<*mut f32>; 2],
    _borrow: PhantomData<&'a mut [T]>,
}

/// Mutable access to what one task owns.
pub(crate) struct RowWriter<'a, T> {
    shared: &'a Shared<'a, T>,
    rows: Range<usize>,
    /// Of the first tensor.
    columns: Range<usize>,
}

impl<T> RowWriter<'_, T> {
    /// Row `row` of the first tensor, which must lie in the task's range: the columns that the task owns.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        self.row_of(0, row).expect("the first tensor is there")
    }
}

#[allow(unsafe_code, reason = "threads write disjoint parts of slices")]
mod unsafe_rows {
    use super::*;

    // SAFETY: the pointers come from exclusive borrows that outlive every task, and tasks only reach the rows and columns of
    // their own ranges through `RowWriter`, so sharing them between threads shares no element.
    unsafe impl<T: Send> Sync for Shared<'_, T> {}

    impl<T> RowWriter<'_, T> {
        /// As [`RowWriter::row`], of the first or second tensor; `None` if that is absent.
        pub fn row_of(&mut self, tensor: usize, row: usize) -> Option<&mut [T]> {
            assert!(self.rows.contains(&row), "a task writes its own rows only");
            let (values, leading, columns) = self.shared.tensors[tensor].as_ref()?;
            let columns = if tensor == 0 { self.columns.clone() } else { 0..*columns };
            let start = offset_of(leading, row) + columns.start;
            // SAFETY: `Rows::new` checked that every row lies within its slice and that no two rows overlap; the columns are
            // a part of the row's. Each row, or rectangle of rows and columns, belongs to exactly one task, and `&mut self`
            // keeps this task to one reference at a time. Different tensors are different exclusive borrows.
            Some(unsafe { std::slice::from_raw_parts_mut(values.add(start), columns.len()) })
        }

        /// Sets statistic `index` of row `row`, if it was asked for.
        pub fn set_stat(&mut self, index: usize, row: usize, value: f32) {
            assert!(self.rows.contains(&row), "a task writes its own rows only");
            if let Some(stat) = self.shared.per_row[index] {
                // SAFETY: `RowOutputs::new` checked that there is one value a row. `for_each_tile` refuses statistics, so that
                // each row belongs to one task.
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
    fn a_task_writes_the_same_rows_of_both_tensors() {
        let layouts = [[2, 5, 3], [2, 5, 4]].map(|shape| Layout::contiguous(&shape).unwrap());
        let (mut wide, mut narrow) = (vec![0.0f32; 40], vec![0.0f32; 30]);
        let outputs = RowOutputs::pair([Some((&mut narrow, layouts[0])), Some((&mut wide, layouts[1]))]);
        outputs.for_each_task(5, 2, &mut [(), ()], |(), rows, writer| {
            for row in rows {
                writer.row(row).iter_mut().for_each(|value| *value += row as f32);
                writer.row_of(1, row).unwrap().iter_mut().for_each(|value| *value -= row as f32);
            }
        });
        assert!(narrow.iter().enumerate().all(|(index, value)| *value == (index / 3) as f32));
        assert!(wide.iter().enumerate().all(|(index, value)| *value == -((index / 4) as f32)));
        let outputs = RowOutputs::pair([None, Some((&mut wide, layouts[1]))]);
        outputs.for_each_task(5, 2, &mut [()], |(), rows, writer| assert!(writer.row_of(0, rows.start).is_none()));
    }

    #[test]
    fn tiles_cover_every_element_once() {
        let layout = Layout::strided(&[2, 5, 7], &[50, 9, 1], 0).unwrap();
        let mut values = vec![0.0f32; 100];
        let outputs = RowOutputs::new(&mut values, &layout, [None, None]);
        outputs.for_each_tile(5, [2, 3], &mut [(), ()], |(), rows, columns, writer| {
            for row in rows {
                let values = writer.row(row);
                assert_eq!(values.len(), columns.len());
                values.iter_mut().zip(columns.clone()).for_each(|(value, c)| *value += (row * 7 + c) as f32 + 1.0);
            }
        });
        for (index, value) in values.iter().enumerate() {
            let (row, column) = (index / 50 * 5 + index % 50 / 9, index % 50 % 9);
            let is_element = index % 50 < 45 && column < 7;
            assert_eq!(*value, if is_element { (row * 7 + column) as f32 + 1.0 } else { 0.0 });
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

    #[test]
    #[should_panic(expected = "equally many rows")]
    fn tensors_of_different_numbers_of_rows_are_refused() {
        let layouts = [[4, 2], [2, 4]].map(|shape| Layout::contiguous(&shape).unwrap());
        let (mut a, mut b) = ([0.0f32; 8], [0.0f32; 8]);
        RowOutputs::pair([Some((&mut a[..], layouts[0])), Some((&mut b[..], layouts[1]))]);
    }
}
