//! The tensors of a call, typed: rows of heads, the sequences of a batch, and how both become tiles in scratch memory.

use std::ops::Range;

use crate::attention::{Band, Operands, Problem};
use crate::cpu::attention::scores::Scoring;
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q};
use crate::cpu::floats;
use crate::cpu::simd::{InstructionSet, TypedRows};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Element, Float, TensorRef};

/// What forward and backward read in common.
pub(super) struct Inputs<'a, T> {
    pub set: InstructionSet,
    pub problem: &'a Problem,
    pub q: HeadRows<'a, T>,
    pub k: HeadRows<'a, T>,
    pub v: HeadRows<'a, T>,
    pub scoring: Scoring<'a, T>,
    /// One a query head.
    pub sinks: Option<&'a [f32]>,
    query_lengths: Option<&'a [i32]>,
    key_lengths: Option<&'a [i32]>,
}

impl<'a, T: Float> Inputs<'a, T> {
    pub fn new(set: InstructionSet, problem: &'a Problem, operands: &Operands<'a>) -> Result<Inputs<'a, T>> {
        let lengths = |lengths: Option<TensorRef<'a>>| lengths.map(|lengths| lengths.host::<i32>()).transpose();
        Ok(Inputs {
            set,
            problem,
            q: HeadRows::new(&operands.q)?,
            k: HeadRows::new(&operands.k)?,
            v: HeadRows::new(&operands.v)?,
            scoring: Scoring::new(set, problem, operands)?,
            sinks: operands.sinks.map(|sinks| sinks.host::<f32>()).transpose()?,
            query_lengths: lengths(operands.query_lengths)?,
            key_lengths: lengths(operands.key_lengths)?,
        })
    }

    /// The key head that a query head reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head / self.problem.group()
    }

    /// All sequences, in their order.
    pub fn sequences(&self) -> impl Iterator<Item = Sequence> {
        self.walk(0..self.problem.batch)
    }

    /// The sequences that own rows in one entry of the tensors' first dimension: one, or all packed ones.
    pub fn sequences_of(&self, entry: usize) -> impl Iterator<Item = Sequence> {
        self.walk(if self.problem.is_packed { 0..self.problem.batch } else { entry..entry + 1 })
    }

    /// Of packed sequences the range must start with the first.
    fn walk(&self, sequences: Range<usize>) -> impl Iterator<Item = Sequence> {
        let problem = self.problem;
        let length = |lengths: Option<&[i32]>, index: usize| lengths.map_or(i32::MAX, |lengths| lengths[index]);
        let (mut next_query, mut next_key) = (0, 0);
        sequences.map(move |index| {
            let key_length = length(self.key_lengths, index);
            let key_limit = key_length.max(0) as usize;
            if !problem.is_packed {
                return Sequence { index, entry: index, queries: 0..problem.len_q, keys: 0..problem.len_kv, key_limit };
            }
            let query_length = length(self.query_lengths, index);
            let queries = take_rows(&mut next_query, query_length, problem.len_q, problem.q_rows());
            let keys = take_rows(&mut next_key, key_length, problem.len_kv, problem.kv_rows());
            Sequence { index, entry: 0, queries, keys, key_limit }
        })
    }

    /// One query head of a sequence.
    pub fn place(&self, sequence: &Sequence, head: usize) -> Place {
        let (len_q, len_kv) = (sequence.queries.len(), sequence.keys.len());
        let band = self.problem.band(len_q, len_kv, sequence.key_limit);
        Place { sequence: sequence.index, head, len_q, len_kv, band }
    }
}

/// One sequence of the batch, and where its rows lie in the tensors.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    /// Its number in the batch: what bias, mask, slopes and dropout go by.
    pub index: usize,
    /// Its entry in the tensors' first dimension.
    pub entry: usize,
    /// Its rows of q.
    pub queries: Range<usize>,
    /// Its rows of k and v.
    pub keys: Range<usize>,
    key_limit: usize,
}

impl Sequence {
    /// The rows of q (and of results of its shape) of a head, from a query on.
    pub fn queries_at(&self, head: usize, query: usize) -> RowsAt {
        RowsAt { entry: self.entry, head, first: self.queries.start + query }
    }

    /// The rows of k and v of a key head, from a key on.
    pub fn keys_at(&self, kv_head: usize, key: usize) -> RowsAt {
        RowsAt { entry: self.entry, head: kv_head, first: self.keys.start + key }
    }
}

/// The next `length` of `rows` packed rows, at most `longest` of them. Lengths are clamped to the rows that there are: wrong
/// ones give wrong numbers, and no access outside of a tensor.
fn take_rows(next: &mut usize, length: i32, longest: usize, rows: usize) -> Range<usize> {
    let (start, length) = (*next, length.max(0) as usize);
    *next = (start + length).min(rows);
    start..(start + length.min(longest)).min(rows)
}

/// The part of some rows that a sequence owns, counted within the sequence.
pub(super) fn within(rows: &Range<usize>, owned: &Range<usize>) -> Range<usize> {
    let within = |row: usize| row.clamp(owned.start, owned.end) - owned.start;
    within(rows.start)..within(rows.end)
}

/// One query head of a sequence; queries and keys count within the sequence.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub sequence: usize,
    pub head: usize,
    pub len_q: usize,
    pub len_kv: usize,
    pub band: Band,
}

impl Place {
    /// Of `keys`, the first keys of the tiles of which any of some queries sees any. `keys` are whole tiles.
    pub fn key_tiles(&self, queries: &Range<usize>, keys: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
        let tiles = self.band.keys_of(queries).map(|seen| {
            let seen = seen.start.max(keys.start)..seen.end.min(keys.end);
            match seen.is_empty() {
                true => 0..0,
                false => seen.start / BLOCK_KV..seen.end.div_ceil(BLOCK_KV),
            }
        });
        let [prefix, window] = tiles;
        // The prefix may end in the tile in which the window starts.
        let window = window.start.max(prefix.end)..window.end;
        prefix.chain(window).map(|tile| tile * BLOCK_KV)
    }

    /// The blocks of queries that see any of some keys. They start at multiples of their size, but for the first, whose start
    /// sees none of the keys.
    pub fn query_blocks(&self, keys: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let seeing = self.band.queries_of(keys, self.len_q);
        let blocks = seeing.start / BLOCK_Q..seeing.end.div_ceil(BLOCK_Q);
        let blocks =
            blocks.map(move |block| (block * BLOCK_Q).max(seeing.start)..((block + 1) * BLOCK_Q).min(seeing.end));
        blocks.filter(|queries| !queries.is_empty())
    }

    /// Of the tile whose row 0 is key `first`, the rows from the first to the last that any of some queries sees.
    pub fn rows_of_tile(&self, queries: &Range<usize>, first: usize) -> Range<usize> {
        let [prefix, window] = self.band.keys_of(queries).map(|keys| columns(&keys, first));
        match (prefix.is_empty(), window.is_empty()) {
            (false, false) => prefix.start..window.end,
            (false, true) => prefix,
            (true, _) => window,
        }
    }
}

/// The part of a range of keys that lies in the tile whose column 0 is key `first`, in columns.
pub(super) fn columns(keys: &Range<usize>, first: usize) -> Range<usize> {
    let column = |key: usize| key.saturating_sub(first).min(BLOCK_KV);
    column(keys.start)..column(keys.end)
}

/// Which rows of a tensor a tile holds.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct RowsAt {
    pub entry: usize,
    pub head: usize,
    /// The row that the tile starts with.
    pub first: usize,
}

impl RowsAt {
    /// The first row's number in lse and whatever else has one value a row of q.
    pub fn lse_row(&self, problem: &Problem) -> usize {
        (self.entry * problem.heads_q + self.head) * problem.q_rows() + self.first
    }

    /// The row of q that has this number in lse: the inverse of [`RowsAt::lse_row`].
    pub fn of_lse_row(problem: &Problem, row: usize) -> RowsAt {
        let (head, first) = (row / problem.q_rows(), row % problem.q_rows());
        RowsAt { entry: head / problem.heads_q, head: head % problem.heads_q, first }
    }
}

/// A tensor `[batch, heads, len, columns]`, by rows.
pub(in crate::cpu) struct HeadRows<'a, T> {
    values: &'a [T],
    strides: [usize; 3],
    columns: usize,
}

impl<'a, T: Float> HeadRows<'a, T> {
    pub fn new(tensor: &TensorRef<'a>) -> Result<HeadRows<'a, T>> {
        let &[batch, head, row, _] = tensor.layout().strides() else {
            unreachable!("tensors are seen with 4 dimensions")
        };
        let columns = tensor.shape()[3];
        Ok(HeadRows { values: tensor.host()?, strides: [batch, head, row], columns })
    }

    /// Row `index` of a tile.
    pub fn row(&self, at: RowsAt, index: usize) -> &'a [T] {
        let [batch, head, row] = self.strides;
        &self.values[at.entry * batch + at.head * head + (at.first + index) * row..][..self.columns]
    }

    /// The elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// From a row on, as it lies.
    pub fn typed(&self, at: RowsAt, index: usize) -> TypedRows<'a> {
        let [batch, head, row] = self.strides;
        let values = &self.values[at.entry * batch + at.head * head + (at.first + index) * row..];
        TypedRows { values: floats::of_slice(values), stride: row }
    }

    /// From the first row on as f32, with the distance of neighbouring rows; `None` if they are of another type.
    pub fn as_f32(&self, at: RowsAt) -> Option<(&'a [f32], usize)> {
        let [batch, head, row] = self.strides;
        let start = at.entry * batch + at.head * head + at.first * row;
        (T::DTYPE == DType::F32).then(|| (&bytemuck::cast_slice(self.values)[start..], row))
    }

    /// From the first row on as pairs of 16-bit elements, with the distance of neighbouring rows in pairs; `None` if rows do not begin
    /// and end with a pair, or they are of another type.
    pub fn as_pairs(&self, at: RowsAt) -> Option<(&'a [f32], usize)> {
        let [batch, head, row] = self.strides;
        let values = &self.values[at.entry * batch + at.head * head + at.first * row..];
        let is_whole = size_of::<T>() == 2 && self.columns.is_multiple_of(2) && row.is_multiple_of(2);
        let pairs = &values[..values.len() / 2 * 2];
        is_whole.then(|| bytemuck::try_cast_slice(pairs).ok())?.map(|pairs| (pairs, row / 2))
    }
}

/// A tensor `[batch, heads, len_q, len_kv]` in which dimensions of size 1 are broadcast.
pub(super) struct Broadcast<'a, E> {
    values: &'a [E],
    strides: [usize; 4],
}

impl<'a, E: Element> Broadcast<'a, E> {
    pub fn new(tensor: &TensorRef<'a>) -> Result<Broadcast<'a, E>> {
        let (shape, strides) = (tensor.shape(), tensor.layout().strides());
        let strides = std::array::from_fn(|axis| if shape[axis] == 1 { 0 } else { strides[axis] });
        Ok(Broadcast { values: tensor.host()?, strides })
    }

    /// The elements of a query's row from a key on, and the distance of neighbours: 0 where all keys have one element.
    pub fn row(&self, place: &Place, query: usize, key: usize) -> (&'a [E], usize) {
        let [batch, head, row, column] = self.strides;
        let start = place.sequence * batch + place.head * head + query * row + key * column;
        (&self.values[start..], column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_sequences_own_rows_one_after_the_other_whatever_the_lengths_say() {
        let owned = |lengths: [i32; 4]| {
            let mut next = 0;
            lengths.map(|length| take_rows(&mut next, length, 8, 20))
        };
        assert_eq!(owned([3, 8, 0, 5]), [0..3, 3..11, 11..11, 11..16]);
        assert_eq!(owned([3, -2, i32::MIN, 5]), [0..3, 3..3, 3..3, 3..8]);
        assert_eq!(owned([3, 10, 2, 9]), [0..3, 3..11, 13..15, 15..20]);
        assert_eq!(owned([i32::MAX, 2, -1, i32::MAX]), [0..8, 20..20, 20..20, 20..20]);
    }

    #[test]
    fn a_range_of_rows_is_cut_to_what_a_sequence_owns() {
        assert_eq!([within(&(0..64), &(10..30)), within(&(64..128), &(10..100))], [0..20, 54..90]);
        assert!(within(&(0..10), &(10..30)).is_empty() && within(&(30..64), &(10..30)).is_empty());
        assert_eq!([columns(&(3..300), 64), columns(&(3..70), 64), columns(&(3..9), 64)], [0..BLOCK_KV, 0..6, 0..0]);
    }
}
