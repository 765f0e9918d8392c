//! Tensor maps: how the copy engine cuts a tensor into boxes. On a GPU the driver encodes them into 128 opaque bytes; here
//! those bytes have a form of their own, so that kernels pass them around in the same way.

use crate::Error;
use crate::machine::mbarrier::COUNT_MAX;

/// Size of an encoded map.
pub const TENSOR_MAP_BYTES: usize = 128;

const MAGIC: [u8; 8] = *b"ptx-emu\0";
const RANK_MAX: usize = 5;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Element {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    const ALL: [Element; 10] = [
        Element::U8,
        Element::U16,
        Element::U32,
        Element::S32,
        Element::U64,
        Element::S64,
        Element::F16,
        Element::Bf16,
        Element::F32,
        Element::F64,
    ];

    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::S32 | Element::F32 => 4,
            Element::U64 | Element::S64 | Element::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Element::F16 | Element::Bf16 | Element::F32 | Element::F64)
    }
}

/// How the 16-byte pieces of a box are exchanged in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Bit 4 of the address with bit 7.
    Bytes32,
    /// Bits 4 and 5 with bits 7 and 8.
    Bytes64,
    /// Bits 4 to 6 with bits 7 to 9.
    Bytes128,
}

impl Swizzle {
    const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

    /// Where a byte of a box that lies at `address` in order comes to lie.
    pub(crate) fn place(self, address: u32) -> u32 {
        address ^ address >> 3 & self.span_mask()
    }

    /// The address bits that change.
    fn span_mask(self) -> u32 {
        match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 0x10,
            Swizzle::Bytes64 => 0x30,
            Swizzle::Bytes128 => 0x70,
        }
    }

    /// The most bytes of a box's inner dimension.
    fn span_bytes(self) -> u64 {
        match self {
            Swizzle::None => u64::MAX,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }
}

/// A tensor of up to five dimensions, the inner one first, and its boxes.
///
/// The rules of `cuTensorMapEncodeTiled` hold, with element strides of 1, without interleaving, and where there is a swizzle,
/// with boxes as wide as its span. A box begins at a multiple of 16 bytes along the innermost dimension, inside or outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// The type of the elements.
    pub element: Element,
    /// The first element.
    pub address: u64,
    /// Elements of each dimension.
    pub dims: Vec<u64>,
    /// Bytes from one entry of a dimension to the next, without that of the inner dimension.
    pub strides_bytes: Vec<u64>,
    /// Elements of a box in each dimension.
    pub box_dims: Vec<u32>,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
    /// Elements outside of the tensor are read as NaN instead of zero: as the bits 0x7ff7, repeated.
    pub fills_with_nan: bool,
}

/// A part of a box that lies side by side in global memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Offset in the box.
    pub offset: u32,
    pub address: u64,
    pub bytes: u32,
}

impl TensorMap {
    /// The bytes that stand for the map in a kernel parameter.
    ///
    /// # Errors
    /// [`Error::TensorMap`] where the map breaks a rule.
    pub fn encode(&self) -> Result<[u8; TENSOR_MAP_BYTES], Error> {
        if let Some(message) = self.fault() {
            return Err(Error::TensorMap { message });
        }
        let mut bytes = Vec::with_capacity(TENSOR_MAP_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(self.address.to_le_bytes());
        for axis in 0..RANK_MAX {
            bytes.extend(self.dims.get(axis).copied().unwrap_or(1).to_le_bytes());
        }
        for axis in 0..RANK_MAX - 1 {
            bytes.extend(self.strides_bytes.get(axis).copied().unwrap_or(0).to_le_bytes());
        }
        for axis in 0..RANK_MAX {
            bytes.extend((self.box_dims.get(axis).copied().unwrap_or(1) as u16).to_le_bytes());
        }
        let position = |found: Option<usize>| found.unwrap_or(0) as u8;
        bytes.push(self.dims.len() as u8);
        bytes.push(position(Element::ALL.iter().position(|element| *element == self.element)));
        bytes.push(position(Swizzle::ALL.iter().position(|swizzle| *swizzle == self.swizzle)));
        bytes.push(u8::from(self.fills_with_nan));
        let mut all = [0; TENSOR_MAP_BYTES];
        all[..bytes.len()].copy_from_slice(&bytes);
        Ok(all)
    }

    /// The map of these bytes, or what they are instead.
    pub(crate) fn decode(bytes: &[u8; TENSOR_MAP_BYTES]) -> Result<TensorMap, String> {
        let no_map = || "there is no tensor map at this address".to_owned();
        if bytes[..8] != MAGIC {
            return Err(no_map());
        }
        let long = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let short = |at: usize| u32::from(bytes[at]) | u32::from(bytes[at + 1]) << 8;
        let rank = usize::from(bytes[98]).clamp(1, RANK_MAX);
        let map = TensorMap {
            element: *Element::ALL.get(usize::from(bytes[99])).ok_or_else(no_map)?,
            address: long(8),
            dims: (0..rank).map(|axis| long(16 + 8 * axis)).collect(),
            strides_bytes: (0..rank - 1).map(|axis| long(56 + 8 * axis)).collect(),
            box_dims: (0..rank).map(|axis| short(88 + 2 * axis)).collect(),
            swizzle: *Swizzle::ALL.get(usize::from(bytes[100])).ok_or_else(no_map)?,
            fills_with_nan: bytes[101] != 0,
        };
        // A kernel may have written over it.
        match map.fault() {
            Some(message) => Err(message),
            None => Ok(map),
        }
    }

    /// The first rule that is broken.
    fn fault(&self) -> Option<String> {
        let rank = self.dims.len();
        if !(1..=RANK_MAX).contains(&rank) || self.box_dims.len() != rank || self.strides_bytes.len() != rank - 1 {
            return Some(format!(
                "{rank} dimensions, {} strides and {} box sizes; there are 1 to 5 dimensions, as many box sizes, and one stride less",
                self.strides_bytes.len(),
                self.box_dims.len()
            ));
        }
        if !self.address.is_multiple_of(16) {
            return Some(format!("the address {:#x} is not a multiple of 16", self.address));
        }
        if let Some(size) = self.dims.iter().find(|size| !(1..=1 << 32).contains(*size)) {
            return Some(format!("a dimension of {size}; it must be from 1 to 2^32"));
        }
        let is_odd = |stride: &&u64| !stride.is_multiple_of(16) || **stride >= 1 << 40;
        if let Some(stride) = self.strides_bytes.iter().find(is_odd) {
            return Some(format!("a stride of {stride} bytes; it must be a multiple of 16 below 2^40"));
        }
        if let Some(size) = self.box_dims.iter().find(|size| !(1..=256).contains(*size)) {
            return Some(format!("a box dimension of {size}; it must be from 1 to 256"));
        }
        let inner_bytes = u64::from(self.box_dims[0]) * u64::from(self.element.bytes());
        if !inner_bytes.is_multiple_of(16) || inner_bytes > self.swizzle.span_bytes() {
            return Some(format!(
                "an inner box dimension of {inner_bytes} bytes; it must be a multiple of 16, and within the span of {:?}",
                self.swizzle
            ));
        }
        if self.swizzle != Swizzle::None && inner_bytes < self.swizzle.span_bytes() {
            return Some(format!(
                "an inner box dimension of {inner_bytes} bytes, less than the span of {:?}, which is not modelled",
                self.swizzle
            ));
        }
        let bytes =
            self.box_dims.iter().map(|size| u64::from(*size)).product::<u64>() * u64::from(self.element.bytes());
        if bytes > u64::from(COUNT_MAX) {
            return Some(format!("a box of {bytes} bytes; an mbarrier counts no more than {COUNT_MAX}"));
        }
        if self.fills_with_nan && !self.element.is_float() {
            return Some(format!("elements of {:?} have no NaN to fill with", self.element));
        }
        None
    }

    /// Bytes of a box.
    pub(crate) fn box_bytes(&self) -> u32 {
        self.box_dims.iter().product::<u32>() * self.element.bytes()
    }

    /// The bytes of an element outside of the tensor.
    pub(crate) fn fill(&self) -> [u8; 8] {
        // An H100 repeats 0x7ff7, which is a NaN in f16 and bf16, through f32 as well; f64 is assumed to be no different.
        let bits: u64 = if self.fills_with_nan { 0x7ff7_7ff7_7ff7_7ff7 } else { 0 };
        bits.to_le_bytes()
    }

    /// The parts of the box at these coordinates that lie in the tensor.
    pub(crate) fn pieces(&self, coordinates: &[i64]) -> Vec<Piece> {
        let size = i64::from(self.element.bytes());
        let inner = i64::from(self.box_dims[0]);
        let from = coordinates[0].clamp(0, self.dims[0] as i64);
        let to = (coordinates[0] + inner).clamp(from, self.dims[0] as i64);
        let rows: u32 = self.box_dims[1..].iter().product();
        let mut pieces = Vec::new();
        if from == to {
            return pieces;
        }
        for row in 0..rows {
            let mut rest = row;
            let mut address = Some(self.address.wrapping_add((from * size) as u64));
            for axis in 1..self.dims.len() {
                let at = coordinates[axis] + i64::from(rest % self.box_dims[axis]);
                rest /= self.box_dims[axis];
                let inside = (0..self.dims[axis] as i64).contains(&at);
                // What wraps around lies in no allocation, or should not have been mapped.
                let step = (at as u64).wrapping_mul(self.strides_bytes[axis - 1]);
                address = address.filter(|_| inside).map(|address: u64| address.wrapping_add(step));
            }
            if let Some(address) = address {
                let offset = (i64::from(row) * inner + from - coordinates[0]) * size;
                pieces.push(Piece { offset: offset as u32, address, bytes: ((to - from) * size) as u32 });
            }
        }
        pieces
    }
}
