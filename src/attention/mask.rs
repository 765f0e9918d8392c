//! Which keys a query sees, as a value: the kernels' loop bounds, the CPU path and the FLOP count all come from it.

use crate::error::{Error, Result};

/// Which keys each query sees.
///
/// Query `i` sits at position `i + len_kv - len_q` (the last query at the last key) unless the mask carries an
/// offset of its own.
///
/// ```text
/// Mask::causal(), 3 queries, 5 keys        Mask::causal().offset(0)
///     1 1 1 0 0                                1 0 0 0 0
///     1 1 1 1 0                                1 1 0 0 0
///     1 1 1 1 1                                1 1 1 0 0
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mask {
    causal: bool,
    offset: Option<i64>,
}

impl Mask {
    /// Every key is visible.
    pub fn none() -> Mask {
        Mask::default()
    }

    /// Key `j` is visible to query `i` iff `j <= position(i)`.
    pub fn causal() -> Mask {
        Mask { causal: true, offset: None }
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

    /// Whether the mask hides any key of any query at all.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The mask for given lengths, in the 32-bit form that kernels take.
    ///
    /// # Errors
    /// [`Error::Option`] for an offset that does not fit 32 bits beside the lengths.
    pub(crate) fn bounds(&self, len_q: usize, len_kv: usize) -> Result<CausalBounds> {
        if !self.causal {
            return Ok(CausalBounds { causal: false, offset: 0 });
        }
        let offset = self.position_offset(len_q, len_kv);
        // Positions are i + offset in 32 bits, so the offset needs room for every query beside it.
        match i32::try_from(offset) {
            Ok(narrow) if offset + (len_q as i64) < i64::from(i32::MAX) => {
                Ok(CausalBounds { causal: true, offset: narrow })
            }
            _ => Err(Error::Option {
                name: "the mask's offset",
                value: offset as f64,
                allowed: "between -2^31 and 2^31 - len_q",
            }),
        }
    }
}

/// A [`Mask`] for given lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CausalBounds {
    pub causal: bool,
    pub offset: i32,
}

impl CausalBounds {
    /// The number of keys, from key 0 on, that query `i` sees of `len_kv`.
    pub(crate) fn visible_keys(&self, query: usize, len_kv: usize) -> usize {
        if !self.causal {
            return len_kv;
        }
        (query as i64 + i64::from(self.offset) + 1).clamp(0, len_kv as i64) as usize
    }

    /// The number of (query, key) pairs that are computed, for FLOP counts.
    pub(crate) fn visible_pairs(&self, len_q: usize, len_kv: usize) -> u64 {
        (0..len_q).map(|query| self.visible_keys(query, len_kv) as u64).sum()
    }
}
