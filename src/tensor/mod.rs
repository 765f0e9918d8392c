//! Tensors: an owned block of device memory ([`Tensor`]) and borrowed views of one ([`TensorRef`], [`TensorMut`]).

mod element;
mod host;
mod layout;
mod lengths;
mod raw;
mod view;

pub use element::Element;
pub(crate) use element::Float;
pub(crate) use host::HostBuffer;
pub use layout::{Dims, Layout, MAX_RANK};
pub use lengths::{LengthsSpec, SeqLens};
pub(crate) use view::{Data, DataMut};
pub use view::{TensorMut, TensorRef};

use crate::device::{Device, Kind};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Where an owned tensor's bytes are.
pub(crate) enum Storage {
    Host(HostBuffer),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Buffer),
    #[cfg(feature = "emulator")]
    Emulator(crate::emulator::Buffer),
}

/// A tensor that owns its memory on one [`Device`].
///
/// ```
/// use warpfold::{Device, Tensor};
/// let x = Tensor::from_slice(&Device::cpu(), &[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
/// assert_eq!(x.shape(), [2, 2]);
/// assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), warpfold::Error>(())
/// ```
pub struct Tensor {
    storage: Storage,
    dtype: DType,
    layout: Layout,
    device: Device,
}

impl Tensor {
    /// Copies row-major host values to a device.
    ///
    /// # Errors
    /// [`Error::ElementCount`] when `values` does not fill `shape`; [`Error::TooManyDimensions`];
    /// [`Error::Cuda`] when the GPU has no memory left.
    pub fn from_slice<T: Element>(device: &Device, values: &[T], shape: impl AsRef<[usize]>) -> Result<Tensor> {
        let layout = Layout::contiguous(shape.as_ref())?;
        if values.len() != layout.num_elements() {
            return Err(Error::ElementCount {
                given: values.len(),
                needed: layout.num_elements(),
                shape: layout.shape_dims(),
            });
        }
        let mut tensor = Tensor::with_layout(device, T::DTYPE, layout)?;
        tensor.write_bytes(bytemuck::cast_slice(values))?;
        Ok(tensor)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`]; [`Error::Cuda`] when the GPU has no memory left.
    pub fn zeros(device: &Device, dtype: DType, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        let layout = Layout::contiguous(shape.as_ref())?;
        let size_bytes = layout.num_elements() * dtype.size_bytes();
        match device.kind() {
            Kind::Cpu(_) => {
                let storage = Storage::Host(HostBuffer::zeroed(size_bytes));
                Ok(Tensor { storage, dtype, layout, device: device.clone() })
            }
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            _ => {
                let mut tensor = Tensor::with_layout(device, dtype, layout)?;
                tensor.write_bytes(&vec![0; size_bytes])?;
                Ok(tensor)
            }
        }
    }

    /// Memory for a compact layout (offset 0, no gaps), for an operation to fill: it holds anything.
    pub(crate) fn with_layout(device: &Device, dtype: DType, layout: Layout) -> Result<Tensor> {
        let size_bytes = layout.num_elements() * dtype.size_bytes();
        let storage = match device.kind() {
            Kind::Cpu(_) => Storage::Host(HostBuffer::any(size_bytes)),
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => Storage::Cuda(cuda.allocate(size_bytes)?),
            #[cfg(feature = "emulator")]
            Kind::Emulator(emulator) => Storage::Emulator(emulator.allocate(size_bytes)?),
        };
        Ok(Tensor { storage, dtype, layout, device: device.clone() })
    }

    /// Overwrites the whole memory with `bytes`, in memory order.
    fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.storage {
            Storage::Host(buffer) => {
                buffer.bytes_mut().copy_from_slice(bytes);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(buffer) => buffer.write(bytes),
            #[cfg(feature = "emulator")]
            Storage::Emulator(buffer) => buffer.write(bytes),
        }
    }

    /// The elements in row-major order. On a GPU this waits for all work of the tensor's stream, and reports the
    /// faults of kernels that ran before.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] when `T` is not the tensor's type; [`Error::Cuda`].
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }

    /// The elements in row-major order as f32, whatever the tensor's float type.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] when the tensor holds integers; [`Error::Cuda`].
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        self.view().to_vec_f32()
    }

    /// A borrowed view of the whole tensor.
    pub fn view(&self) -> TensorRef<'_> {
        let data = match &self.storage {
            Storage::Host(buffer) => Data::Host(buffer.bytes()),
            #[cfg(feature = "cuda")]
            Storage::Cuda(buffer) => Data::Cuda { memory: buffer, address: buffer.address() },
            #[cfg(feature = "emulator")]
            Storage::Emulator(buffer) => Data::Emulator(buffer),
        };
        TensorRef::from_parts(data, self.dtype, self.layout, &self.device)
    }

    /// A borrowed mutable view of the whole tensor.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let data = match &mut self.storage {
            Storage::Host(buffer) => DataMut::Host(buffer.bytes_mut()),
            #[cfg(feature = "cuda")]
            Storage::Cuda(buffer) => DataMut::Cuda { address: buffer.address(), memory: buffer },
            #[cfg(feature = "emulator")]
            Storage::Emulator(buffer) => DataMut::Emulator(buffer),
        };
        TensorMut::from_parts(data, self.dtype, self.layout, &self.device)
    }

    /// The same elements with another shape; the tensor must be contiguous.
    ///
    /// # Errors
    /// [`Error::ElementCount`] when the shapes hold different numbers of elements, and [`Error::LastStride`] when
    /// the tensor is not contiguous.
    pub fn reshape(mut self, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        let layout = Layout::contiguous(shape.as_ref())?;
        if layout.num_elements() != self.layout.num_elements() {
            return Err(Error::ElementCount {
                given: self.layout.num_elements(),
                needed: layout.num_elements(),
                shape: layout.shape_dims(),
            });
        }
        if !self.layout.is_contiguous() {
            return Err(Error::LastStride {
                tensor: "the tensor to reshape",
                stride: self.layout.strides().last().copied().unwrap_or(1),
                shape: self.layout.shape_dims(),
                strides: self.layout.stride_dims(),
            });
        }
        self.layout = layout;
        Ok(self)
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// The layout in memory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the tensor is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The GPU memory of a contiguous tensor, for other cudarc code.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`]; [`Error::DeviceMismatch`] when the tensor is not on a GPU; [`Error::LastStride`]
    /// when it is not contiguous; [`Error::Cuda`].
    #[cfg(feature = "cuda")]
    pub fn into_cuda_slice<T: Element>(self) -> Result<cudarc::driver::CudaSlice<T>> {
        if self.dtype != T::DTYPE {
            return Err(Error::DTypeMismatch { tensor: "the tensor", dtype: self.dtype, expected: T::DTYPE });
        }
        if !self.layout.is_contiguous() {
            return Err(Error::LastStride {
                tensor: "the tensor",
                stride: self.layout.strides().last().copied().unwrap_or(1),
                shape: self.layout.shape_dims(),
                strides: self.layout.stride_dims(),
            });
        }
        match self.storage {
            Storage::Cuda(buffer) => buffer.into_slice(self.layout.num_elements()),
            _ => Err(Error::DeviceMismatch {
                tensor: "the tensor",
                device: self.device.to_string(),
                expected: "a CUDA device".to_string(),
            }),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {} on {})", self.dtype, self.layout.shape_dims(), self.device)
    }
}

/// What a plan reads of a tensor: everything but its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// The type of the elements.
    pub dtype: DType,
    /// The layout in memory.
    pub layout: Layout,
    /// The largest power of two, at most 16, that divides the first element's address, in bytes.
    pub alignment_bytes: u8,
}

impl TensorSpec {
    /// A contiguous, 16-byte aligned tensor.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`]; [`Error::TooLarge`].
    pub fn contiguous(dtype: DType, shape: impl AsRef<[usize]>) -> Result<TensorSpec> {
        Ok(TensorSpec { dtype, layout: Layout::contiguous(shape.as_ref())?, alignment_bytes: 16 })
    }

    /// Whether every row (the last dimension) starts on a 16-byte boundary.
    pub(crate) fn rows_aligned(&self) -> bool {
        let layout = &self.layout;
        let leading = layout.rank().saturating_sub(1);
        self.alignment_bytes >= 16
            && (0..leading).all(|axis| {
                layout.shape()[axis] <= 1 || (layout.strides()[axis] * self.dtype.size_bytes()).is_multiple_of(16)
            })
    }
}
