//! Tensor maps as plain data: how the copy engine of sm_90 (TMA) cuts a tensor into boxes. The launcher has the driver
//! encode them, the emulator's adapter has the emulator do so.
//!
//! Source: the CUDA driver API, `cuTensorMapEncodeTiled`. Its rules are checked here, where the plan is made.

use std::fmt;

use crate::dtype::DType;
use crate::error::{Error, Result};

/// The most dimensions.
pub(crate) const RANK_MAX: usize = 5;
/// Addresses and strides are multiples of it, and so is the inner size of a box.
pub(crate) const ALIGNMENT_BYTES: u64 = 16;
/// Strides are less.
pub(crate) const STRIDE_BYTES_END: u64 = 1 << 40;
const DIM_MAX: u64 = 1 << 32;
const BOX_DIM_MAX: u32 = 256;

/// How the 16-byte pieces of a box are exchanged in shared memory, so that its columns meet all banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Swizzle {
    /// Not at all.
    None,
    /// In spans of 32 bytes.
    Bytes32,
    /// In spans of 64 bytes.
    Bytes64,
    /// In spans of 128 bytes: piece `p` of row `r` takes the place of piece `p ^ (r % 8)`.
    Bytes128,
}

impl Swizzle {
    /// The bytes that a box may have in its inner dimension.
    const fn span_bytes(self) -> u64 {
        match self {
            Swizzle::None => u64::MAX,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }
}

/// A tensor and the boxes that it is copied in. Dimension 0 is the inner one, whose elements lie side by side. Elements of a
/// box outside of the tensor are read as zero and not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TensorMap {
    /// Which of the addresses, with which the kernel's parameters begin, is the tensor's.
    pub tensor: usize,
    /// The type of the elements.
    pub dtype: DType,
    /// The number of dimensions; what follows has so many entries, and then any.
    pub rank: usize,
    /// The sizes.
    pub dims: [u64; RANK_MAX],
    /// The strides of dimensions 1 and up.
    pub strides_bytes: [u64; RANK_MAX - 1],
    /// The sizes of a box.
    pub box_dims: [u32; RANK_MAX],
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

/// A dimension of a tensor and of a box of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dim {
    pub size: usize,
    /// Of the inner dimension, nothing reads it.
    pub stride_bytes: i64,
    pub box_size: usize,
}

impl TensorMap {
    /// The map of the tensor whose address is number `tensor`, from the inner dimension on, with the widest swizzle.
    ///
    /// # Errors
    /// [`Error::TensorMap`] with `name` where the copy engine cannot take such a tensor.
    pub(crate) fn new(name: &'static str, (tensor, dtype): (usize, DType), dims: &[Dim]) -> Result<TensorMap> {
        let refuse = |what: String, value: u64, allowed: &'static str| {
            Err(Error::TensorMap { tensor: name, what, value, allowed })
        };
        if !(1..=RANK_MAX).contains(&dims.len()) {
            return refuse("rank".to_string(), dims.len() as u64, "from 1 to 5");
        }
        let mut map = TensorMap {
            tensor,
            dtype,
            rank: dims.len(),
            dims: [1; RANK_MAX],
            strides_bytes: [ALIGNMENT_BYTES; RANK_MAX - 1],
            box_dims: [1; RANK_MAX],
            swizzle: Swizzle::Bytes128,
        };
        for (axis, dim) in dims.iter().enumerate() {
            // A tensor of no rows has a map that nothing is copied by.
            map.dims[axis] = dim.size.max(1) as u64;
            map.box_dims[axis] = dim.box_size.min(u32::MAX as usize) as u32;
            // Nothing reads the stride of a dimension of one entry, but it has to be a valid one.
            if axis > 0 && dim.size > 1 {
                map.strides_bytes[axis - 1] = dim.stride_bytes as u64;
            }
        }
        match map.fault() {
            Some((what, value, allowed)) => refuse(what, value, allowed),
            None => Ok(map),
        }
    }

    /// The first rule that is broken: what, its value, and what is allowed.
    fn fault(&self) -> Option<(String, u64, &'static str)> {
        let size_bytes = self.dtype.size_bytes() as u64;
        let mut axes = 0..self.rank;
        if let Some(axis) = axes.clone().find(|&axis| !(1..=DIM_MAX).contains(&self.dims[axis])) {
            return Some((format!("size of dimension {axis}"), self.dims[axis], "from 1 to 2^32"));
        }
        // The driver takes a stride of 0 as well, but what it means is written nowhere.
        let is_odd = |stride: u64| stride == 0 || !stride.is_multiple_of(ALIGNMENT_BYTES) || stride >= STRIDE_BYTES_END;
        if let Some(axis) = axes.clone().skip(1).find(|axis| is_odd(self.strides_bytes[axis - 1])) {
            let allowed = "a multiple of 16 bytes, above 0 and below 2^40";
            return Some((format!("stride of dimension {axis}"), self.strides_bytes[axis - 1], allowed));
        }
        if let Some(axis) = axes.find(|&axis| !(1..=BOX_DIM_MAX).contains(&self.box_dims[axis])) {
            let value = u64::from(self.box_dims[axis]);
            return Some((format!("box size of dimension {axis}"), value, "from 1 to 256"));
        }
        let inner_bytes = u64::from(self.box_dims[0]) * size_bytes;
        if !inner_bytes.is_multiple_of(ALIGNMENT_BYTES) || inner_bytes > self.swizzle.span_bytes() {
            let allowed = "a multiple of 16 bytes, and no more than the swizzle's span";
            return Some(("inner box size in bytes".to_string(), inner_bytes, allowed));
        }
        None
    }

    /// Whether the copy engine takes the tensor at this address; plans were made for tensors that are aligned as well.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn check_address(&self, address: u64) -> Result<()> {
        if address.is_multiple_of(ALIGNMENT_BYTES) {
            return Ok(());
        }
        Err(Error::TensorMap {
            tensor: "a tensor",
            what: "address".to_string(),
            value: address,
            allowed: "a multiple of 16 bytes",
        })
    }
}

impl fmt::Display for TensorMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} in boxes of {:?}", self.dtype, &self.dims[..self.rank], &self.box_dims[..self.rank])
    }
}

/// The maps of a launch, in place: a plan is copied for each call, which allocates nothing.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct TensorMaps {
    /// From `count` on, entries that mean nothing.
    maps: [TensorMap; TensorMaps::MAX],
    count: usize,
}

impl TensorMaps {
    /// The most that a kernel takes.
    pub const MAX: usize = 6;

    /// These maps, [`TensorMaps::MAX`] at most.
    pub fn of<const COUNT: usize>(given: [TensorMap; COUNT]) -> TensorMaps {
        const { assert!(COUNT <= TensorMaps::MAX) };
        let mut maps = TensorMaps { count: COUNT, ..TensorMaps::default() };
        maps.maps[..COUNT].copy_from_slice(&given);
        maps
    }

    pub fn as_slice(&self) -> &[TensorMap] {
        &self.maps[..self.count]
    }
}

impl Default for TensorMaps {
    fn default() -> TensorMaps {
        let nothing = TensorMap {
            tensor: 0,
            dtype: DType::U8,
            rank: 0,
            dims: [1; RANK_MAX],
            strides_bytes: [ALIGNMENT_BYTES; RANK_MAX - 1],
            box_dims: [1; RANK_MAX],
            swizzle: Swizzle::None,
        };
        TensorMaps { maps: [nothing; TensorMaps::MAX], count: 0 }
    }
}

impl fmt::Debug for TensorMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [Dim; 3] = [
        Dim { size: 128, stride_bytes: 2, box_size: 64 },
        Dim { size: 1000, stride_bytes: 256, box_size: 128 },
        Dim { size: 4, stride_bytes: 256_000, box_size: 1 },
    ];

    fn map(change: impl Fn(&mut [Dim; 3])) -> Result<TensorMap> {
        let mut dims = ROWS;
        change(&mut dims);
        TensorMap::new("k", (1, DType::BF16), &dims)
    }

    #[test]
    fn a_map_says_what_it_was_told() {
        let map = map(|_| ()).unwrap();
        assert_eq!((map.tensor, map.rank, map.swizzle), (1, 3, Swizzle::Bytes128));
        assert_eq!(map.dims, [128, 1000, 4, 1, 1]);
        assert_eq!(map.strides_bytes, [256, 256_000, 16, 16]);
        assert_eq!(map.box_dims, [64, 128, 1, 1, 1]);
        assert_eq!(map.to_string(), "bf16 [128, 1000, 4] in boxes of [64, 128, 1]");
    }

    #[test]
    fn every_rule_of_the_driver_is_checked() {
        let refused = |change: &dyn Fn(&mut [Dim; 3]), expected: &str| {
            let error = map(change).unwrap_err().to_string();
            assert!(error.starts_with("the tensor map of k has ") && error.contains(expected), "{error}");
        };
        refused(&|dims| dims[2].size = (1 << 32) + 1, "size of dimension 2 4294967297; it must be from 1 to 2^32");
        refused(&|dims| dims[1].stride_bytes = 250, "stride of dimension 1 250; it must be a multiple of 16");
        refused(&|dims| dims[1].stride_bytes = 0, "stride of dimension 1 0;");
        refused(&|dims| dims[2].stride_bytes = 1 << 40, "stride of dimension 2 1099511627776;");
        refused(&|dims| dims[1].box_size = 257, "box size of dimension 1 257; it must be from 1 to 256");
        refused(&|dims| dims[1].box_size = 0, "box size of dimension 1 0;");
        refused(&|dims| dims[0].box_size = 72, "inner box size in bytes 144; it must be a multiple of 16");
        refused(&|dims| dims[0].box_size = 12, "inner box size in bytes 24;");
        assert!(map(|dims| dims[2].stride_bytes = (1 << 40) - 16).is_ok());
        for rank in [0, 6] {
            let error = TensorMap::new("k", (1, DType::F16), &vec![ROWS[0]; rank]).unwrap_err().to_string();
            assert_eq!(error, format!("the tensor map of k has rank {rank}; it must be from 1 to 5"));
        }
    }

    /// Nothing reads the stride of one entry, and nothing is copied of none.
    #[test]
    fn dimensions_of_one_entry_or_none_have_valid_maps() {
        let one = map(|dims| (dims[2].size, dims[2].stride_bytes) = (1, 7)).unwrap();
        assert_eq!((one.dims[2], one.strides_bytes[1]), (1, 16));
        let none = map(|dims| (dims[1].size, dims[1].stride_bytes) = (0, 0)).unwrap();
        assert_eq!((none.dims[1], none.strides_bytes[0]), (1, 16));
    }

    #[test]
    fn maps_are_kept_in_their_order() {
        let maps = TensorMaps::of([map(|_| ()).unwrap(), map(|dims| dims[1].size = 5).unwrap()]);
        assert_eq!(maps.as_slice().iter().map(|map| map.dims[1]).collect::<Vec<_>>(), [1000, 5]);
        assert_eq!(TensorMaps::default().as_slice(), []);
    }
}
