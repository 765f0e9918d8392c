//! Which keys a query sees, as a value: the kernels' loop bounds, the CPU path and the FLOP count all come from it.

use std::ops::Range;

use crate::error::{Error, Result};

/// Positions, lengths and windows stay below this, so that their sums fit 32 bits.
pub(crate) const POSITION_MAX: i64 = 1 << 29;

/// Which keys each query sees, by their positions. Tensors that hide keys (a boolean mask, key lengths, the documents of
/// a packed batch) belong to a call, [`crate::Qkv`]; a key is visible where all of them agree.
///
/// Query `i` sits at position `i + len_kv - len_q` (the last query at the last key) unless the mask carries an
/// offset of its own.
///
/// ```text
/// Mask::causal(), 3 queries, 5 keys        Mask::causal().offset(0)
///     1 1 1 0 0                                1 0 0 0 0
///     1 1 1 1 0                                1 1 0 0 0
///     1 1 1 1 1                                1 1 1 0 0
///
/// Mask::none().window(Some(1), Some(1))    Mask::causal().window(Some(1), None)    Mask::causal().offset(0).prefix(2)
///     0 1 1 1 0                                0 1 1 0 0                               1 1 0 0 0
///     0 0 1 1 1                                0 0 1 1 0                               1 1 0 0 0
///     0 0 0 1 1                                0 0 0 1 1                               1 1 1 0 0
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mask {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    prefix: usize,
    offset: Option<i64>,
}

impl Mask {
    /// Every key is visible.
    pub fn none() -> Mask {
        Mask::default()
    }

    /// Key `j` is visible to query `i` iff `j <= position(i)`.
    pub fn causal() -> Mask {
        Mask { causal: true, ..Mask::default() }
    }

    /// Shows only keys `position(i) - left <= j <= position(i) + right`, both inclusive; `None` is unbounded. Under
    /// [`Mask::causal`] both hold.
    pub fn window(mut self, left: Option<usize>, right: Option<usize>) -> Mask {
        (self.left, self.right) = (left, right);
        self
    }

    /// Shows keys `0..keys` to every query, whatever the causal mask and the window say: a prefix that is attended in both
    /// directions, or global tokens beside a sliding window.
    pub fn prefix(mut self, keys: usize) -> Mask {
        self.prefix = keys;
        self
    }

    /// Sets `position(i) = i + offset`. PyTorch's `is_causal` is offset 0: the first query at the first key.
    pub fn offset(mut self, offset: i64) -> Mask {
        self.offset = Some(offset);
        self
    }

    /// The distance of a query's position from its index.
    pub fn position_offset(&self, len_q: usize, len_kv: usize) -> i64 {
        self.offset.unwrap_or(len_kv as i64 - len_q as i64)
    }

    /// Whether keys after a query's position are hidden.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The mask together with the range of keys that takes part, in the form that kernels take.
    ///
    /// # Errors
    /// [`Error::Option`] for an offset of 2^29 or more.
    pub(crate) fn visibility(&self, key_range: Option<&Range<usize>>) -> Result<Visibility> {
        if let Some(offset) = self.offset.filter(|offset| offset.unsigned_abs() >= POSITION_MAX as u64) {
            return Err(Error::Option {
                name: "the mask's offset",
                value: offset as f64,
                allowed: "between -2^29 and 2^29",
            });
        }
        // A window that reaches past every possible distance is none.
        let bounded = |reach: usize| i64::try_from(reach).ok().filter(|reach| *reach < 2 * POSITION_MAX - 2);
        let right = self.right.and_then(bounded);
        Ok(Visibility {
            left: self.left.and_then(bounded),
            right: if self.causal { Some(right.map_or(0, |right| right.min(0))) } else { right },
            prefix: self.prefix.min(POSITION_MAX as usize),
            offset: self.offset,
            key_range: key_range.cloned().map(|range| (range.start, range.end)),
        })
    }
}

/// A [`Mask`] and a range of keys, for any lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visibility {
    pub left: Option<i64>,
    pub right: Option<i64>,
    pub prefix: usize,
    pub offset: Option<i64>,
    pub key_range: Option<(usize, usize)>,
}

impl Visibility {
    /// What is visible in one sequence. `len_q` and `len_kv` decide the alignment; `limit` (a key length) only hides.
    pub fn band(&self, len_q: usize, len_kv: usize, limit: usize) -> Band {
        let (begin, end) = self.key_range.unwrap_or((0, len_kv));
        let end = end.min(len_kv).min(limit);
        Band {
            left: self.left,
            right: self.right,
            offset: self.offset.unwrap_or(len_kv as i64 - len_q as i64),
            begin: begin.min(end),
            end,
            prefix: self.prefix.clamp(begin.min(end), end),
        }
    }
}

/// What the queries of one sequence see: the prefix `begin..prefix`, and of `begin..end` the window around their position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Band {
    left: Option<i64>,
    right: Option<i64>,
    offset: i64,
    begin: usize,
    end: usize,
    prefix: usize,
}

impl Band {
    /// The position of a query.
    pub fn position(&self, query: usize) -> i64 {
        query as i64 + self.offset
    }

    /// How many keys before a query's position it sees; `None` is all.
    pub fn left(&self) -> Option<i64> {
        self.left
    }

    /// How many keys after a query's position it sees; `None` is all.
    pub fn right(&self) -> Option<i64> {
        self.right
    }

    /// The key up to which every query sees all.
    pub fn prefix(&self) -> usize {
        self.prefix
    }

    /// The keys that a query sees: a part of the prefix, then keys after the prefix. Either may be empty.
    pub fn keys(&self, query: usize) -> [Range<usize>; 2] {
        self.keys_of(&(query..query + 1))
    }

    /// The keys that any of some queries see, in the same two parts; every key in between is in one of them.
    pub fn keys_of(&self, queries: &Range<usize>) -> [Range<usize>; 2] {
        let clamp = |key: i64| key.clamp(self.prefix as i64, self.end as i64) as usize;
        let first = self.left.map_or(self.prefix, |left| clamp(self.position(queries.start) - left));
        let last = self.right.map_or(self.end, |right| clamp(self.position(queries.end - 1) + right + 1));
        [self.begin..self.prefix, first..last.max(first)]
    }

    /// The queries of `0..len_q` that see any key of a range.
    pub fn queries_of(&self, keys: &Range<usize>, len_q: usize) -> Range<usize> {
        let (start, end) = (keys.start.max(self.begin), keys.end.min(self.end));
        if start >= end {
            return 0..0;
        }
        if start < self.prefix {
            return 0..len_q;
        }
        let clamp = |query: i64| query.clamp(0, len_q as i64) as usize;
        let first = self.right.map_or(0, |right| clamp(start as i64 - right - self.offset));
        let last = self.left.map_or(len_q, |left| clamp(end as i64 + left - self.offset));
        first..last.max(first)
    }

    /// Whether every one of some queries sees every one of some keys.
    pub fn is_full(&self, queries: &Range<usize>, keys: &Range<usize>) -> bool {
        if keys.start < self.begin || keys.end > self.end {
            return false;
        }
        let (start, end) = (keys.start as i64, keys.end as i64);
        keys.end <= self.prefix
            || (self.left.is_none_or(|left| self.position(queries.end - 1) - left <= start)
                && self.right.is_none_or(|right| self.position(queries.start) + right + 1 >= end))
    }

    /// The number of visible (query, key) pairs, for FLOP counts.
    pub fn visible_pairs(&self, len_q: usize) -> u64 {
        (0..len_q).map(|query| self.keys(query).iter().map(|keys| keys.len() as u64).sum::<u64>()).sum()
    }
}
