//! Parallel work that writes rows of strided outputs: tasks are ranges of rows, and a task can reach its own rows
//! only. The one unsafe step of the CPU device outside `simd/`: it hands out disjoint parts of slices.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::cpu::dispatch_float;
use crate::cpu::floats::FloatsMut;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Float, Layout, TensorMut};

/// Where the tasks write: the rows of up to three tensors, each of a type of its own, up to two f32 values a row, and an f32
/// area a task.
pub(crate) struct RowOutputs<'a> {
    tensors: [Option<Rows<'a>>; 3],
    per_row: [Option<&'a mut [f32]>; 2],
    areas: Areas<'a>,
    rows: usize,
}

/// The rows of one tensor.
struct Rows<'a> {
    /// The first element of the slice that is borrowed, and the type of its elements.
    values: *mut u8,
    dtype: DType,
    leading: Layout,
    columns: usize,
    _borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> Rows<'a> {
    /// `values` starts at the layout's first element.
    fn new<T: Float>(values: &'a mut [T], layout: &Layout) -> Rows<'a> {
        let (columns, shape) = layout.shape().split_last().expect("an output has rows");
        let strides = &layout.strides()[..shape.len()];
        // These checks are what makes the row references disjoint and in bounds.
        assert!(!layout.overlaps(), "outputs are checked for overlap when they are planned");
        let leading = Layout::strided(shape, strides, 0).expect("a part of a valid layout is valid");
        let reach = if layout.num_elements() == 0 { 0 } else { leading.end() - 1 + columns };
        assert!(reach <= values.len(), "outputs are checked to fit their memory");
        assert!(*columns <= 1 || layout.strides()[shape.len()] == 1, "rows are contiguous");
        let values = values.as_mut_ptr().cast();
        Rows { values, dtype: T::DTYPE, leading, columns: *columns, _borrow: PhantomData }
    }

    /// The number of rows; rows without an element are none.
    fn count(&self) -> usize {
        if self.columns == 0 { 0 } else { self.leading.num_elements() }
    }
}

fn rows_of<'a, T: Float>(tensor: &'a mut TensorMut<'_>) -> Result<Rows<'a>> {
    let layout = *tensor.layout();
    Ok(Rows::new(tensor.host_mut::<T>()?, &layout))
}

/// Areas of f32 values, one a task.
struct Areas<'a> {
    values: &'a mut [f32],
    /// Of one area.
    len: usize,
}

impl<'a> RowOutputs<'a> {
    /// The rows of a tensor whose elements do not overlap; `values` starts at its first element.
    pub fn new<T: Float>(values: &'a mut [T], layout: &Layout, per_row: [Option<&'a mut [f32]>; 2]) -> RowOutputs<'a> {
        RowOutputs::of_rows([Some(Rows::new(values, layout)), None, None], per_row)
    }

    /// The rows of float tensors that have equally many, of which either may be absent: a task writes the same rows of both.
    pub fn of_tensors(
        tensors: [Option<&'a mut TensorMut<'_>>; 2],
        per_row: [Option<&'a mut [f32]>; 2],
    ) -> Result<RowOutputs<'a>> {
        let [first, second] =
            tensors.map(|tensor| tensor.map(|tensor| dispatch_float!(tensor.dtype(), rows_of(tensor))).transpose());
        Ok(RowOutputs::of_rows([first?, second?, None], per_row))
    }

    /// The rows of float tensors, of which any may be absent, in `groups` equal parts: a task of [`RowOutputs::for_each_group`]
    /// writes one part of each.
    pub fn of_groups(tensors: [Option<&'a mut TensorMut<'_>>; 3], groups: usize) -> Result<RowOutputs<'a>> {
        let [first, second, third] =
            tensors.map(|tensor| tensor.map(|tensor| dispatch_float!(tensor.dtype(), rows_of(tensor))).transpose());
        let tensors = [first?, second?, third?];
        for tensor in tensors.iter().flatten() {
            assert!(tensor.count().is_multiple_of(groups), "groups are equally large");
        }
        Ok(RowOutputs { tensors, per_row: [None, None], areas: Areas { values: &mut [], len: 0 }, rows: groups })
    }

    fn of_rows(tensors: [Option<Rows<'a>>; 3], per_row: [Option<&'a mut [f32]>; 2]) -> RowOutputs<'a> {
        let mut counts = tensors.iter().flatten().map(Rows::count);
        let rows = counts.next().unwrap_or(0);
        assert!(counts.all(|count| count == rows), "tensors that are written together have equally many rows");
        for stat in per_row.iter().flatten() {
            assert!(stat.len() >= rows, "there is one statistic a row");
        }
        RowOutputs { tensors, per_row, areas: Areas { values: &mut [], len: 0 }, rows }
    }

    /// Gives each task `len` values of its own besides, in the order of the tasks.
    pub fn areas(self, values: &'a mut [f32], len: usize) -> RowOutputs<'a> {
        RowOutputs { areas: Areas { values, len }, ..self }
    }

    /// Splits each group of `group_rows` rows into tasks of at most `task_rows` and runs them all, one scratch slot a
    /// thread. Which thread runs a task does not show in the result.
    pub fn for_each_task<S: Send>(
        self,
        group_rows: usize,
        task_rows: usize,
        slots: &mut [S],
        task: impl Fn(&mut S, Range<usize>, &mut RowWriter<'_>) + Sync,
    ) {
        self.for_each_prepared_task(group_rows, task_rows, slots, |_| (), task);
    }

    /// As [`RowOutputs::for_each_task`], and prepares each slot before its first task.
    pub fn for_each_prepared_task<S: Send>(
        self,
        group_rows: usize,
        task_rows: usize,
        slots: &mut [S],
        prepare: impl Fn(&mut S) + Sync,
        task: impl Fn(&mut S, Range<usize>, &mut RowWriter<'_>) + Sync,
    ) {
        let task_size = [task_rows, usize::MAX];
        self.run(group_rows, task_size, slots, prepare, |slot, rows, _, writer| task(slot, rows, writer));
    }

    /// As [`RowOutputs::for_each_task`], and splits the rows of the one tensor too, into at most `task_size[1]` columns: a
    /// task owns a rectangle, `rows` by `columns`.
    pub fn for_each_tile<S: Send>(
        self,
        group_rows: usize,
        task_size: [usize; 2],
        slots: &mut [S],
        task: impl Fn(&mut S, Range<usize>, Range<usize>, &mut RowWriter<'_>) + Sync,
    ) {
        assert!(self.tensors[1].is_none() && self.per_row.iter().all(Option::is_none), "one tensor has tiles");
        self.run(group_rows, task_size, slots, |_| (), task);
    }

    /// Runs a task for each group of [`RowOutputs::of_groups`], with its number, one scratch slot a thread.
    pub fn for_each_group<S: Send>(self, slots: &mut [S], task: impl Fn(&mut S, usize, &mut RowWriter<'_>) + Sync) {
        let groups = self.rows;
        let counts = self.tensors.each_ref().map(|tensor| tensor.as_ref().map_or(0, Rows::count) / groups);
        let columns = self.tensors[0].as_ref().map_or(0, |tensor| tensor.columns);
        let shared = Shared {
            tensors: &self.tensors,
            per_row: [None, None],
            areas: self.areas.values.as_mut_ptr(),
            area_len: 0,
        };
        run_tasks(
            groups,
            slots,
            |_| (),
            |slot, index| {
                let rows = counts.map(|count| index * count..(index + 1) * count);
                task(slot, index, &mut RowWriter { shared: &shared, index, rows, columns: 0..columns });
            },
        );
    }

    fn run<S: Send>(
        mut self,
        group_rows: usize,
        task_size: [usize; 2],
        slots: &mut [S],
        prepare: impl Fn(&mut S) + Sync,
        task: impl Fn(&mut S, Range<usize>, Range<usize>, &mut RowWriter<'_>) + Sync,
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
        let Areas { values: areas, len: area_len } = self.areas;
        assert!(area_len.checked_mul(tasks).is_some_and(|len| len <= areas.len()), "there is one area a task");
        let shared = Shared {
            tensors: &self.tensors,
            per_row: self.per_row.each_mut().map(|stat| stat.as_mut().map(|stat| stat.as_mut_ptr())),
            areas: areas.as_mut_ptr(),
            area_len,
        };
        run_tasks(tasks, slots, prepare, |slot, index| {
            // Different indices are different rectangles.
            let (row_task, column_task) = (index / across, index % across);
            let first = row_task % per_group * task_size[0];
            let group = row_task / per_group * group_rows;
            let rows = group + first..group + (first + task_size[0]).min(group_rows);
            let left = column_task * task_size[1];
            let tile = left..left.saturating_add(task_size[1]).min(columns);
            let of_tensors = [(); 3].map(|()| rows.clone());
            let mut writer = RowWriter { shared: &shared, index, rows: of_tensors, columns: tile.clone() };
            task(slot, rows, tile, &mut writer);
        });
    }
}

/// Parts of the tasks that threads begin with, at most.
const SHARES_MAX: usize = 64;

/// Runs tasks `0..tasks` in rayon's current pool, each once; prepares each slot before its first task. A thread takes the tasks of
/// a share of its own in their order, so that it reads and writes memory that lies together (threads that take turns at small
/// tasks fetch each other's cache lines ahead), and then what is left of the other shares. A single task runs where it is called: to
/// wake another thread takes longer than many a small problem.
fn run_tasks<S: Send>(
    tasks: usize,
    slots: &mut [S],
    prepare: impl Fn(&mut S) + Sync,
    task: impl Fn(&mut S, usize) + Sync,
) {
    let workers = slots.len().min(tasks);
    let shares = workers.clamp(1, SHARES_MAX);
    let first_of = |share: usize| tasks / shares * share + (tasks % shares).min(share);
    let next: [AtomicUsize; SHARES_MAX] = std::array::from_fn(|share| AtomicUsize::new(first_of(share.min(shares))));
    let work = |slot: &mut S| {
        let mut is_prepared = false;
        let own = rayon::current_thread_index().unwrap_or(0);
        for share in (0..shares).map(|turn| (own + turn) % shares) {
            loop {
                // Every index is taken once.
                let index = next[share].fetch_add(1, Ordering::Relaxed);
                if index >= first_of(share + 1) {
                    break;
                }
                if !std::mem::replace(&mut is_prepared, true) {
                    prepare(slot);
                }
                task(slot, index);
            }
        }
    };
    match &mut slots[..workers] {
        [slot] => work(slot),
        slots => slots.par_iter_mut().with_max_len(1).for_each(work),
    }
}

struct Shared<'a> {
    tensors: &'a [Option<Rows<'a>>; 3],
    per_row: [Option<*mut f32>; 2],
    areas: *mut f32,
    area_len: usize,
}

/// Mutable access to what one task owns.
pub(crate) struct RowWriter<'a> {
    shared: &'a Shared<'a>,
    /// Of the task.
    index: usize,
    /// Of each tensor.
    rows: [Range<usize>; 3],
    /// Of the first tensor.
    columns: Range<usize>,
}

/// What a task owns of a row, and for all of its rows.
pub(crate) struct RowParts<'a> {
    /// The row of each tensor that is there.
    pub tensors: [Option<FloatsMut<'a>>; 2],
    pub area: &'a mut [f32],
}

impl RowWriter<'_> {
    /// Row `row` of the first tensor, which must lie in the task's range and hold `T`: the columns that the task owns.
    pub fn row<T: Float>(&mut self, row: usize) -> &mut [T] {
        self.row_of(0, row).expect("the first tensor is there")
    }
}

#[allow(unsafe_code, reason = "threads write disjoint parts of slices")]
mod unsafe_rows {
    use super::*;

    // SAFETY: the pointers come from exclusive borrows, of slices of `Send` elements, that outlive every task. Tasks only
    // reach the rows, columns and area of their own through `RowWriter`, so sharing them between threads shares no
    // element.
    unsafe impl Sync for Shared<'_> {}

    impl<'a> RowWriter<'a> {
        /// A row as elements of `T`, which must be what it holds.
        ///
        /// # Safety
        /// Of each tensor, the task has one such reference at a time.
        unsafe fn elements<T: Float>(
            &self,
            tensor: usize,
            rows: &Rows<'_>,
            columns: Range<usize>,
            row: usize,
        ) -> &'a mut [T] {
            assert!(self.rows[tensor].contains(&row), "a task writes its own rows only");
            assert_eq!(T::DTYPE, rows.dtype, "a row is seen as what it holds");
            let start = offset_of(&rows.leading, row) + columns.start;
            // SAFETY: `Rows::new` took the pointer from a slice of this type (no two types share a `DType`), and checked
            // that every row lies within that slice and that no two rows overlap; the columns are a part of the row's.
            // Each row, or rectangle of rows and columns, belongs to exactly one task, and the caller vouches for its
            // having no other reference.
            unsafe { std::slice::from_raw_parts_mut(rows.values.cast::<T>().add(start), columns.len()) }
        }

        /// A tensor and the columns of it that the task owns.
        fn tensor(&self, tensor: usize) -> Option<(&'a Rows<'a>, Range<usize>)> {
            let rows = self.shared.tensors[tensor].as_ref()?;
            Some((rows, if tensor == 0 { self.columns.clone() } else { 0..rows.columns }))
        }

        /// As [`RowWriter::row`], of any tensor; `None` if that is absent.
        pub fn row_of<T: Float>(&mut self, tensor: usize, row: usize) -> Option<&mut [T]> {
            let (rows, columns) = self.tensor(tensor)?;
            // SAFETY: the result borrows `self` exclusively.
            Some(unsafe { self.elements(tensor, rows, columns, row) })
        }

        /// Row `row` of the first two tensors, of whatever float type, and the task's area.
        pub fn parts(&mut self, row: usize) -> RowParts<'_> {
            let Shared { areas, area_len, .. } = *self.shared;
            let tensors = [0, 1].map(|tensor| {
                let (rows, columns) = self.tensor(tensor)?;
                // SAFETY: the results borrow `self` exclusively, and different tensors are different exclusive borrows.
                Some(unsafe {
                    match rows.dtype {
                        DType::F32 => FloatsMut::F32(self.elements(tensor, rows, columns, row)),
                        DType::F16 => FloatsMut::F16(self.elements(tensor, rows, columns, row)),
                        _ => FloatsMut::BF16(self.elements(tensor, rows, columns, row)),
                    }
                })
            });
            // SAFETY: `RowOutputs::run` checked that there is an area for each task, and this one's belongs to it alone. The
            // areas are an exclusive borrow other than the tensors', and the result borrows `self` exclusively.
            let area = unsafe { std::slice::from_raw_parts_mut(areas.add(self.index * area_len), area_len) };
            RowParts { tensors, area }
        }

        /// Sets statistic `index` of row `row`, if it was asked for.
        pub fn set_stat(&mut self, index: usize, row: usize, value: f32) {
            assert!(self.rows[0].contains(&row), "a task writes its own rows only");
            if let Some(stat) = self.shared.per_row[index] {
                // SAFETY: `RowOutputs::of_rows` checked that there is one value a row. `for_each_tile` refuses statistics,
                // so that each row belongs to one task.
                unsafe { *stat.add(row) = value };
            }
        }
    }
}

/// The offset of row `row`, counted in row-major order of the leading dimensions.
fn offset_of(leading: &Layout, row: usize) -> usize {
    // Divisions would take as long as a tenth of a short row.
    if let [stride] = leading.strides() {
        return row * stride;
    }
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
    use crate::cpu::simd::InstructionSet;
    use crate::device::Device;
    use crate::tensor::Tensor;
    use half::bf16;

    #[test]
    fn every_row_is_written_once_by_its_task() {
        let layout = Layout::contiguous(&[3, 7, 2, 5]).unwrap().transpose(1, 2).unwrap();
        let mut values = vec![0.0f32; 210];
        let mut stats = vec![0.0f32; 42];
        let mut areas = vec![0.0f32; 18 * 2];
        let outputs = RowOutputs::new(&mut values, &layout, [Some(&mut stats), None]).areas(&mut areas, 2);
        outputs.for_each_task(7, 3, &mut [(), (), ()], |(), range, writer| {
            writer.parts(range.start).area.copy_from_slice(&[range.start as f32, range.end as f32]);
            for row in range {
                writer.row::<f32>(row).iter_mut().for_each(|value| *value += row as f32 + 1.0);
                writer.set_stat(0, row, row as f32);
            }
        });
        for (task, area) in areas.chunks(2).enumerate() {
            let first = task / 3 * 7 + task % 3 * 3;
            assert_eq!(area, [first as f32, (first + if task % 3 == 2 { 1 } else { 3 }) as f32]);
        }
        for (row, stat) in stats.iter().enumerate() {
            let (b, l, h) = (row / 14, row % 7, row / 7 % 2);
            let start = b * 70 + l * 10 + h * 5;
            assert_eq!(values[start..start + 5], [row as f32 + 1.0; 5]);
            assert_eq!(*stat, row as f32);
        }
    }

    #[test]
    fn a_task_writes_the_same_rows_of_both_tensors() {
        let device = Device::cpu();
        let mut narrow = Tensor::zeros(&device, DType::F32, [2, 5, 3]).unwrap();
        let mut wide = Tensor::zeros(&device, DType::BF16, [2, 5, 4]).unwrap();
        let outputs = |tensors: [Option<TensorMut<'_>>; 2], write: &(dyn Fn(usize, &mut RowWriter<'_>) + Sync)| {
            let [mut narrow, mut wide] = tensors;
            let outputs = RowOutputs::of_tensors([narrow.as_mut(), wide.as_mut()], [None, None]).unwrap();
            outputs.for_each_task(5, 2, &mut [(), ()], |(), rows, writer| rows.for_each(|row| write(row, writer)));
        };
        outputs([Some(narrow.view_mut()), Some(wide.view_mut())], &|row, writer| {
            writer.row(row).fill(row as f32);
            let [Some(mut narrow), Some(FloatsMut::BF16(wide))] = writer.parts(row).tensors else {
                panic!("both are there")
            };
            narrow.write(InstructionSet::best(), &[row as f32 + 0.5; 3]);
            wide.fill(bf16::from_f32(-(row as f32)));
        });
        let (narrow, values) = (narrow.to_vec::<f32>().unwrap(), wide.to_vec_f32().unwrap());
        assert!(narrow.iter().enumerate().all(|(index, value)| *value == (index / 3) as f32 + 0.5));
        assert!(values.iter().enumerate().all(|(index, value)| *value == -((index / 4) as f32)));
        outputs([None, Some(wide.view_mut())], &|row, writer| assert!(writer.row_of::<f32>(0, row).is_none()));
    }

    #[test]
    fn slots_are_prepared_once_before_their_tasks() {
        let (mut values, layout) = (vec![0.0f32; 20], Layout::contiguous(&[20, 1]).unwrap());
        let mut slots = [0; 3];
        RowOutputs::new(&mut values, &layout, [None, None]).for_each_prepared_task(
            20,
            3,
            &mut slots,
            |slot| *slot += 1,
            |slot, rows, writer| rows.for_each(|row| writer.row(row)[0] = *slot as f32),
        );
        assert_eq!(values, [1.0; 20]);
        assert!(slots.iter().all(|slot| *slot <= 1));
    }

    #[test]
    fn tiles_cover_every_element_once() {
        let layout = Layout::strided(&[2, 5, 7], &[50, 9, 1], 0).unwrap();
        let mut values = vec![0.0f32; 100];
        let outputs = RowOutputs::new(&mut values, &layout, [None, None]);
        outputs.for_each_tile(5, [2, 3], &mut [(), ()], |(), rows, columns, writer| {
            for row in rows {
                let values = writer.row::<f32>(row);
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
            .for_each_task(4, 2, &mut [()], |(), range, writer| writer.row((range.end + 1) % 4)[0] = 1.0f32);
    }

    #[test]
    #[should_panic(expected = "what it holds")]
    fn another_type_is_refused() {
        let mut values = vec![0.0f32; 8];
        let layout = Layout::contiguous(&[4, 2]).unwrap();
        RowOutputs::new(&mut values, &layout, [None, None])
            .for_each_task(4, 4, &mut [()], |(), range, writer| writer.row(range.start)[0] = bf16::ONE);
    }

    #[test]
    #[should_panic(expected = "one area a task")]
    fn too_few_areas_are_refused() {
        let (mut values, mut areas) = (vec![0.0f32; 8], [0.0; 3]);
        let layout = Layout::contiguous(&[4, 2]).unwrap();
        let outputs = RowOutputs::new(&mut values, &layout, [None, None]).areas(&mut areas, 2);
        outputs.for_each_task(4, 2, &mut [()], |(), _, _| {});
    }

    #[test]
    #[should_panic(expected = "equally many rows")]
    fn tensors_of_different_numbers_of_rows_are_refused() {
        let mut tensors = [[4, 2], [2, 4]].map(|shape| Tensor::zeros(&Device::cpu(), DType::F16, shape).unwrap());
        let mut views = tensors.each_mut().map(|tensor| tensor.view_mut());
        let _ = RowOutputs::of_tensors(views.each_mut().map(Some), [None, None]);
    }
}
