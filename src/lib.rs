//! Hand-written CUDA kernels for fused attention, softmax and layer norm, behind a safe API that also runs on the CPU.
//!
//! ```
//! use warpfold::{Attention, Device, Mask, Qkv, Tensor};
//!
//! let device = Device::best(); // a CUDA device that is usable, else the CPU; device.reason() says why
//! let values: Vec<half::f16> = (0..128 * 64).map(|i| half::f16::from_f32((i % 7) as f32)).collect();
//! let q = Tensor::from_slice(&device, &values, [1, 2, 64, 64])?; // [batch, heads, len, head_dim]
//! let forward = Attention::new().mask(Mask::causal()).forward(&Qkv::new(&q, &q, &q))?;
//! assert_eq!(forward.output.shape(), [1, 2, 64, 64]);
//! # Ok::<(), warpfold::Error>(())
//! ```
//!
//! A call goes through three steps. The *contract* checks shapes, strides and options and makes a problem; the *plan*
//! (pure, reusable, [`AttentionPlan::explain`]) chooses a kernel from one table; the *run* launches it on a GPU or
//! computes the problem on the CPU. [`mod@reference`] is the float64 oracle that every device is held to.
//!
//! # Cargo features
//! - `cuda` (default): run on NVIDIA GPUs. The driver is looked for at run time, a CUDA compiler at build time; without
//!   one the crate still builds, and CUDA calls return [`Error::KernelsNotBuilt`].
//! - `emulator`: run the compiled kernels on the CPU, with hazard checks.

#![deny(unsafe_code)]

mod attention;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod dtype;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
#[cfg(any(feature = "cuda", feature = "emulator"))]
mod images;
mod launch;
mod norm;
mod params;
mod plan;
#[cfg(feature = "cuda")]
mod ptx;
pub mod reference;
mod rows;
mod softmax;
mod target;
mod tensor;
mod tensor_map;
pub mod variants;
mod workspace;

pub use attention::{
    Attention, AttentionBackwardPlan, AttentionForward, AttentionGradients, AttentionOutputs, AttentionPlan,
    AttentionState, AttentionStateRef, BackwardInputs, BackwardSpec, GradientOutputs, Mask, Qkv, QkvSpec,
};
pub use device::{Device, Stream};
pub use dtype::DType;
pub use error::{Error, Result};
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub use images::{KernelInfo, kernel_compiler, kernels};
pub use norm::{
    Norm, NormBackwardInputs, NormBackwardPlan, NormBackwardSpec, NormForward, NormGradientOutputs, NormGradients,
    NormInputs, NormOutputs, NormPlan, NormSpec,
};
pub use plan::LaunchPlan;
pub use softmax::{Softmax, SoftmaxBackwardPlan, SoftmaxBackwardSpec, SoftmaxInputs, SoftmaxPlan, SoftmaxSpec};
pub use target::{ComputeCapability, GpuTarget, Target};
pub use tensor::{Dims, Element, Layout, LengthsSpec, MAX_RANK, SeqLens, Tensor, TensorMut, TensorRef, TensorSpec};
pub use tensor_map::{Swizzle, TensorMap};
pub use workspace::Workspace;

/// What a user may move to another thread, or share.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Device>();
    is_send_and_sync::<Tensor>();
    is_send_and_sync::<TensorRef<'_>>();
    is_send_and_sync::<TensorMut<'_>>();
    is_send_and_sync::<Attention>();
    is_send_and_sync::<AttentionPlan>();
    is_send_and_sync::<AttentionBackwardPlan>();
    is_send_and_sync::<AttentionState>();
    is_send_and_sync::<AttentionStateRef<'_>>();
    is_send_and_sync::<Workspace>();
    is_send_and_sync::<Error>();
};
