//! Every way a call can fail: one variant per cause, with the values in it.

use crate::dtype::DType;
use crate::tensor::Dims;

/// The result of a fallible call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Shapes, options and kernels are checked before any launch, so a failed call changed nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has another number of dimensions than the operation needs.
    #[error("{tensor} has shape {shape} of rank {}; {expected} is needed", .shape.rank())]
    Rank {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Dims,
        /// The dimensions that the operation needs.
        expected: &'static str,
    },
    /// A tensor's shape does not agree with the other tensors.
    #[error("{tensor} has shape {shape}; {expected} is needed, because {reason}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Dims,
        /// The shape that would fit.
        expected: Dims,
        /// Where the expectation comes from.
        reason: &'static str,
    },
    /// The number of elements given is not the number that the shape asks for.
    #[error("{given} elements were given for shape {shape}, which holds {needed}")]
    ElementCount {
        /// Elements given.
        given: usize,
        /// Elements needed.
        needed: usize,
        /// The shape.
        shape: Dims,
    },
    /// A layout reaches past the memory that it describes.
    #[error(
        "shape {shape} with strides {strides} and offset {offset} reaches element {last} of memory that holds {elements}"
    )]
    OutOfBounds {
        /// The shape.
        shape: Dims,
        /// The strides in elements.
        strides: Dims,
        /// The offset in elements.
        offset: usize,
        /// The last element that the layout reaches.
        last: usize,
        /// The elements that the memory holds.
        elements: usize,
    },
    /// More dimensions than a tensor can have.
    #[error("a tensor has at most {limit} dimensions, not {rank}")]
    TooManyDimensions {
        /// The number asked for.
        rank: usize,
        /// The most there can be.
        limit: usize,
    },
    /// A dimension number, or a range in a dimension, that the tensor does not have.
    #[error("there is no {what} in a tensor of shape {shape}")]
    NoSuchDimension {
        /// What was asked for.
        what: String,
        /// The tensor's shape.
        shape: Dims,
    },
    /// A dimension that must not be zero is.
    #[error("{tensor} is empty: its shape is {shape}, and only len_kv may be 0")]
    Empty {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Dims,
    },
    /// A tensor that the call needs was not given.
    #[error("{tensor} is missing: the call needs it")]
    Missing {
        /// The tensor.
        tensor: &'static str,
    },
    /// The last dimension is not contiguous.
    #[error("the last dimension of {tensor} has stride {stride}; it must be 1 (shape {shape}, strides {strides})")]
    LastStride {
        /// The tensor.
        tensor: &'static str,
        /// The stride of the last dimension in elements.
        stride: usize,
        /// The shape.
        shape: Dims,
        /// All strides in elements.
        strides: Dims,
    },
    /// An output whose elements share memory.
    #[error("the elements of {tensor} overlap in memory: shape {shape}, strides {strides}")]
    Overlap {
        /// The tensor.
        tensor: &'static str,
        /// The shape.
        shape: Dims,
        /// The strides in elements.
        strides: Dims,
    },
    /// Leading dimensions that cannot be walked as at most three strided ones.
    #[error(
        "the leading dimensions of {tensor} (shape {shape}, strides {strides}) do not merge into three; copy it to a contiguous tensor first"
    )]
    TooManyStrides {
        /// The tensor.
        tensor: &'static str,
        /// The shape.
        shape: Dims,
        /// The strides in elements.
        strides: Dims,
    },
    /// The number of query heads is not a multiple of the number of key heads.
    #[error("{heads_q} query heads are not a multiple of {heads_kv} key heads")]
    HeadsNotDivisible {
        /// Query heads.
        heads_q: usize,
        /// Key and value heads.
        heads_kv: usize,
    },
    /// A size over what the kernels' 32-bit indices reach.
    #[error("{what} is {value}; at most {limit} is supported")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The largest supported value.
        limit: usize,
    },
    /// A tensor's element type differs from the one that the call needs.
    #[error("{tensor} is {dtype}; {expected} is needed")]
    DTypeMismatch {
        /// The tensor.
        tensor: &'static str,
        /// Its element type.
        dtype: DType,
        /// The element type needed.
        expected: DType,
    },
    /// An element type that the operation does not have on this device.
    #[error("{operation} of {dtype} is not available on {device}; available: {available}")]
    UnsupportedDType {
        /// The operation.
        operation: &'static str,
        /// The element type.
        dtype: DType,
        /// The device.
        device: String,
        /// What there is.
        available: String,
    },
    /// A sequence length below zero.
    #[error("the length of sequence {index} is {length}; it must not be negative")]
    NegativeLength {
        /// The sequence.
        index: usize,
        /// Its length.
        length: i32,
    },
    /// A key length over the number of keys.
    #[error("the longest of key_lengths is {length}, but k holds {len_kv} keys")]
    KeyLength {
        /// The longest length.
        length: usize,
        /// The keys there are.
        len_kv: usize,
    },
    /// Packed sequences whose lengths do not add up to the rows of their tensor.
    #[error("the lengths in {tensor} add up to {total}, but the packed tensor has {rows} rows")]
    PackedLengths {
        /// The lengths.
        tensor: &'static str,
        /// Their sum.
        total: usize,
        /// The rows there are.
        rows: usize,
    },
    /// A range of keys that is not within the keys.
    #[error("key_range {start}..{end} is not a range of the {len_kv} keys")]
    KeyRange {
        /// The first key.
        start: usize,
        /// The key after the last one.
        end: usize,
        /// The keys there are.
        len_kv: usize,
    },
    /// A tensor that must have no gaps.
    #[error("{tensor} must be contiguous; it has shape {shape} and strides {strides}")]
    NotContiguous {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Dims,
        /// Its strides in elements.
        strides: Dims,
    },
    /// An option outside its range.
    #[error("{name} is {value}; it must be {allowed}")]
    Option {
        /// The option.
        name: &'static str,
        /// The value given.
        value: f64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// No compiled kernel takes the problem on the target.
    #[error("no {operation} kernel takes {wanted} on {target}; there are kernels for {available}")]
    NoKernel {
        /// The operation.
        operation: &'static str,
        /// The problem.
        wanted: String,
        /// The target.
        target: String,
        /// What there is.
        available: String,
    },
    /// A tensor that the copy engine of a GPU cannot take as it lies. Plans choose other kernels for those.
    #[error("the tensor map of {tensor} has {what} {value}; it must be {allowed}")]
    TensorMap {
        /// The tensor.
        tensor: &'static str,
        /// The property.
        what: String,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Tensors of two devices in one call.
    #[error("{tensor} is on {device}, but the call runs on {expected}")]
    DeviceMismatch {
        /// The tensor.
        tensor: &'static str,
        /// Where it is.
        device: String,
        /// Where the call runs.
        expected: String,
    },
    /// Inputs, outputs or a workspace other than those that the plan was made for.
    #[error("{what} differs from what the plan was made for: {given} instead of {planned}")]
    PlanMismatch {
        /// What differs.
        what: &'static str,
        /// What was given.
        given: String,
        /// What the plan was made for.
        planned: String,
    },
    /// An unknown device name.
    #[error("there is no device \"{name}\"; write cpu, cpu:avx2 (or another instruction set), cuda, cuda:N{}", if cfg!(feature = "emulator") { ", emulator:sm_80 or emulator:sm_90a" } else { " (emulator:sm_80 and emulator:sm_90a need the cargo feature `emulator`)" })]
    DeviceName {
        /// The name given.
        name: String,
    },
    /// An instruction set that the processor does not have.
    #[error("this processor has no instruction set \"{name}\"; it has {available}")]
    InstructionSet {
        /// The name given.
        name: String,
        /// The names of what it has.
        available: String,
    },
    /// The crate was built without the cargo feature that the call needs.
    #[error("{what} needs the cargo feature `{feature}` of warpfold")]
    FeatureDisabled {
        /// What was asked for.
        what: &'static str,
        /// The feature.
        feature: &'static str,
    },
    /// No NVIDIA driver on this machine.
    #[error("no NVIDIA driver was found ({detail}); install one, or use Device::cpu()")]
    NoDriver {
        /// What was tried.
        detail: String,
    },
    /// The NVIDIA driver does not know the kernels' format or a function that is needed.
    #[error("the NVIDIA driver supports CUDA {found}; CUDA {needed} or later is needed: update the driver")]
    DriverTooOld {
        /// The CUDA version of the driver.
        found: String,
        /// The lowest CUDA version that works.
        needed: &'static str,
    },
    /// The driver is there but shows no GPU.
    #[error(
        "the NVIDIA driver shows no GPU ({detail}); check nvidia-smi and CUDA_VISIBLE_DEVICES, or use Device::cpu()"
    )]
    NoGpu {
        /// What the driver said.
        detail: String,
    },
    /// A GPU number that does not exist.
    #[error("there is no device cuda:{ordinal}; the driver shows {count} GPU(s), numbered from 0")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// The number of GPUs.
        count: usize,
    },
    /// The GPU is older than every kernel.
    #[error("{device} has compute capability {capability}; the kernels need {needed} or later")]
    NoImage {
        /// The GPU.
        device: String,
        /// Its compute capability.
        capability: String,
        /// The lowest compute capability that works.
        needed: &'static str,
    },
    /// The crate was built without a CUDA compiler, so that it holds no kernels.
    #[error("this build of warpfold holds no CUDA kernels: {reason}")]
    KernelsNotBuilt {
        /// Why, and the cure.
        reason: String,
    },
    /// The CUDA driver refused a call.
    #[error("{call} failed with CUDA error {code}: {message}")]
    Cuda {
        /// What was being done.
        call: &'static str,
        /// The driver's error code.
        code: u32,
        /// The driver's words.
        message: String,
    },
    /// A compiled kernel image could not be unpacked or loaded.
    #[error("the image of kernel {kernel} is unusable: {detail}")]
    Image {
        /// The kernel.
        kernel: String,
        /// What went wrong.
        detail: String,
    },
    /// The emulator could not run a kernel, or reported hazards while running it.
    #[error("emulator: {detail}")]
    Emulator {
        /// The emulator's report.
        detail: String,
    },
    /// Memory that does not start on a boundary of its element type.
    #[error("address {address:#x} is not aligned for {dtype}")]
    Misaligned {
        /// The address.
        address: u64,
        /// The element type.
        dtype: DType,
    },
}
