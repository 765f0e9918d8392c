//! Everything of a transformer outside attention, softmax and layer norm, behind one trait: memory, matrix products,
//! GELU and the embedding lookup.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod host;

use warpfold::{DType, Device, TensorMut, TensorRef};

use crate::error::{Error, Result};
use crate::weights::{LinearWeights, Weights};

/// The tokens of a batch, padded to one length.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// `[batch, len]`.
    pub ids: Vec<u32>,
    pub len: usize,
    /// The number of real tokens of each sentence.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Pads sentences, of at least one token each, to the longest.
    pub fn new(sentences: &[&[u32]], pad_token: u32) -> Batch {
        let len = sentences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let padded =
            |ids: &&[u32]| ids.iter().copied().chain(std::iter::repeat(pad_token)).take(len).collect::<Vec<_>>();
        Batch {
            ids: sentences.iter().flat_map(padded).collect(),
            len,
            lengths: sentences.iter().map(|ids| ids.len()).collect(),
        }
    }

    /// The number of sentences.
    pub fn size(&self) -> usize {
        self.lengths.len()
    }
}

/// What a matrix product is followed by, before its result is rounded.
pub(crate) enum After<'a, Memory> {
    Nothing,
    /// `gelu(y) = y / 2 * (1 + erf(y / sqrt(2)))`.
    Gelu,
    /// The block's input is added to its output.
    Add(&'a Memory),
}

/// One way to compute. Memory holds numbers of the type that the model runs in; every result is rounded to it.
pub(crate) trait Backend: Send + Sync {
    /// A block of numbers on the device.
    type Memory: Send + Sync;
    /// A matrix and a bias on the device.
    type Linear: Send + Sync;
    /// The three embedding tables on the device.
    type Tables: Send + Sync;

    /// Where warpfold's operations run on that memory.
    fn device(&self) -> &Device;
    fn dtype(&self) -> DType;

    fn upload(&self, name: &str, values: &[f32]) -> Result<Self::Memory>;
    fn upload_linear(&self, weights: &LinearWeights) -> Result<Self::Linear>;
    fn upload_tables(&self, weights: &Weights) -> Result<Self::Tables>;
    fn allocate(&self, elements: usize) -> Result<Self::Memory>;

    /// Memory as a row-major tensor of `shape`, which it fills.
    fn view<'a>(&'a self, memory: &'a Self::Memory, shape: &[usize]) -> Result<TensorRef<'a>>;
    /// The same, to be written.
    fn view_mut<'a>(&'a self, memory: &'a mut Self::Memory, shape: &[usize]) -> Result<TensorMut<'a>>;

    /// Row by row `words[id] + positions[position] + token_types[0]`.
    fn embed(&self, tables: &Self::Tables, ids: &[u32], positions: &[u32]) -> Result<Self::Memory>;
    /// `x weight^T + bias`, then what is `after`; `x` has rows of `inputs` numbers.
    fn linear(&self, x: &Self::Memory, linear: &Self::Linear, after: After<'_, Self::Memory>) -> Result<Self::Memory>;
    /// Blocks one after another in one.
    fn concatenate(&self, parts: &[Self::Memory]) -> Result<Self::Memory>;
}

/// Rounds a value to an element type and back.
pub(crate) fn round(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::BF16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Weights rounded to an element type; each must stay finite.
pub(crate) fn rounded(name: &str, values: &[f32], dtype: DType) -> Result<Vec<f32>> {
    values
        .iter()
        .map(|value| {
            let nearest = round(*value, dtype);
            match nearest.is_finite() {
                true => Ok(nearest),
                false => Err(Error::TensorValue { tensor: name.to_string(), value: *value, dtype }),
            }
        })
        .collect()
}
