//! Borrowed tensors: of a [`crate::Tensor`], of a Rust slice, of a cudarc slice, or of a raw pointer.

use crate::device::{CPU, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::element::Float;
use crate::tensor::{Element, Layout, Tensor, TensorSpec};
use half::{bf16, f16};

/// Borrowed memory that is read.
#[derive(Clone, Copy)]
pub(crate) enum Data<'a> {
    Host(&'a [u8]),
    #[cfg(feature = "cuda")]
    Cuda {
        memory: &'a dyn crate::cuda::ReadMemory,
        address: u64,
    },
    #[cfg(feature = "cuda")]
    CudaRaw {
        address: u64,
        size_bytes: usize,
    },
    #[cfg(feature = "emulator")]
    Emulator(&'a crate::emulator::Buffer),
}

/// Borrowed memory that is written.
pub(crate) enum DataMut<'a> {
    Host(&'a mut [u8]),
    #[cfg(feature = "cuda")]
    Cuda {
        memory: &'a mut dyn crate::cuda::WriteMemory,
        address: u64,
    },
    #[cfg(feature = "cuda")]
    CudaRaw {
        address: u64,
        size_bytes: usize,
    },
    #[cfg(feature = "emulator")]
    Emulator(&'a mut crate::emulator::Buffer),
}

/// A borrowed tensor. Copying it copies no elements.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    data: Data<'a>,
    dtype: DType,
    layout: Layout,
    device: &'a Device,
}

/// A mutably borrowed tensor: what an operation writes its result to.
pub struct TensorMut<'a> {
    data: DataMut<'a>,
    dtype: DType,
    layout: Layout,
    device: &'a Device,
    is_fresh: bool,
}

impl<'a> From<&'a Tensor> for TensorRef<'a> {
    fn from(tensor: &'a Tensor) -> TensorRef<'a> {
        tensor.view()
    }
}

impl<'a> From<&'a mut Tensor> for TensorMut<'a> {
    fn from(tensor: &'a mut Tensor) -> TensorMut<'a> {
        tensor.view_mut()
    }
}

fn check_slice(elements: usize, shape: &[usize]) -> Result<Layout> {
    let layout = Layout::contiguous(shape)?;
    if elements != layout.num_elements() {
        return Err(Error::ElementCount { given: elements, needed: layout.num_elements(), shape: layout.shape_dims() });
    }
    Ok(layout)
}

fn check_bounds(elements: usize, layout: &Layout) -> Result<()> {
    let end = layout.end();
    if end > elements {
        return Err(Error::OutOfBounds {
            shape: layout.shape_dims(),
            strides: layout.stride_dims(),
            offset: layout.offset(),
            last: end.saturating_sub(1),
            elements,
        });
    }
    Ok(())
}

/// The largest power of two, at most 16, that divides an address.
fn alignment_of(address: u64) -> u8 {
    1 << address.trailing_zeros().min(4)
}

impl<'a> TensorRef<'a> {
    pub(crate) fn from_parts(data: Data<'a>, dtype: DType, layout: Layout, device: &'a Device) -> TensorRef<'a> {
        TensorRef { data, dtype, layout, device }
    }

    /// Borrows row-major host values as a tensor on the CPU device.
    ///
    /// # Errors
    /// [`Error::ElementCount`] when `values` does not fill `shape`; [`Error::TooManyDimensions`].
    pub fn from_slice<T: Element>(values: &'a [T], shape: impl AsRef<[usize]>) -> Result<TensorRef<'a>> {
        let layout = check_slice(values.len(), shape.as_ref())?;
        Ok(TensorRef::from_parts(Data::Host(bytemuck::cast_slice(values)), T::DTYPE, layout, &CPU))
    }

    /// Borrows cudarc memory as a row-major tensor. Work is ordered after cudarc's own on that slice.
    ///
    /// # Errors
    /// [`Error::ElementCount`]; [`Error::DeviceMismatch`] when the slice belongs to another GPU than `device`.
    #[cfg(feature = "cuda")]
    pub fn from_cuda<T: Element>(
        device: &'a Device,
        slice: &'a cudarc::driver::CudaSlice<T>,
        shape: impl AsRef<[usize]>,
    ) -> Result<TensorRef<'a>> {
        let layout = check_slice(slice.len(), shape.as_ref())?;
        let address = crate::cuda::slice_address(device, slice)?;
        Ok(TensorRef::from_parts(Data::Cuda { memory: slice, address }, T::DTYPE, layout, device))
    }

    /// The same memory seen through another layout.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when the layout reaches past the memory.
    pub fn with_layout(mut self, layout: Layout) -> Result<TensorRef<'a>> {
        check_bounds(self.size_bytes() / self.dtype.size_bytes(), &layout)?;
        self.layout = layout;
        Ok(self)
    }

    /// Two dimensions exchanged, without moving an element.
    ///
    /// # Errors
    /// [`Error::NoSuchDimension`].
    pub fn transpose(mut self, a: usize, b: usize) -> Result<TensorRef<'a>> {
        self.layout = self.layout.transpose(a, b)?;
        Ok(self)
    }

    /// `length` entries of dimension `axis`, from `start` on.
    ///
    /// # Errors
    /// [`Error::NoSuchDimension`].
    pub fn narrow(mut self, axis: usize, start: usize, length: usize) -> Result<TensorRef<'a>> {
        self.layout = self.layout.narrow(axis, start, length)?;
        Ok(self)
    }

    /// The elements in row-major order; on a GPU this waits for the device's stream.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] when `T` is not the tensor's type; [`Error::Cuda`].
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype != T::DTYPE {
            return Err(Error::DTypeMismatch { tensor: "the tensor", dtype: self.dtype, expected: T::DTYPE });
        }
        match self.data {
            Data::Host(_) => Ok(gather(self.host::<T>()?, &self.layout)),
            #[cfg(feature = "cuda")]
            Data::Cuda { .. } | Data::CudaRaw { .. } => {
                let mut values = vec![<T as bytemuck::Zeroable>::zeroed(); self.layout.end()];
                crate::cuda::read(self.device, self.data, bytemuck::cast_slice_mut(&mut values))?;
                Ok(gather(&values[self.layout.offset()..], &self.layout))
            }
            #[cfg(feature = "emulator")]
            Data::Emulator(buffer) => {
                let mut values = vec![<T as bytemuck::Zeroable>::zeroed(); self.layout.end()];
                buffer.read(bytemuck::cast_slice_mut(&mut values))?;
                Ok(gather(&values[self.layout.offset()..], &self.layout))
            }
        }
    }

    /// The elements in row-major order as f32, whatever the tensor's float type.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] when the tensor holds integers; [`Error::Cuda`].
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        Ok(match self.dtype {
            DType::F16 => self.to_vec::<f16>()?.into_iter().map(Float::to_f32).collect(),
            DType::BF16 => self.to_vec::<bf16>()?.into_iter().map(Float::to_f32).collect(),
            DType::F32 | DType::I32 | DType::U8 => self.to_vec::<f32>()?,
        })
    }

    /// The host elements from the first one on. The layout stays within them.
    pub(crate) fn host<T: Element>(&self) -> Result<&'a [T]> {
        match self.data {
            // No memory has no alignment either.
            Data::Host([]) => Ok(&[]),
            Data::Host(bytes) => {
                let values: &[T] = bytemuck::try_cast_slice(bytes)
                    .map_err(|_| Error::Misaligned { address: bytes.as_ptr() as u64, dtype: self.dtype })?;
                Ok(&values[self.layout.offset()..])
            }
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            _ => Err(Error::DeviceMismatch {
                tensor: "the tensor",
                device: self.device.to_string(),
                expected: CPU.to_string(),
            }),
        }
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
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// What a plan reads of this tensor.
    pub fn spec(&self) -> TensorSpec {
        spec(self.base_address(), self.dtype, &self.layout)
    }

    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn data(&self) -> Data<'a> {
        self.data
    }

    fn base_address(&self) -> u64 {
        match self.data {
            Data::Host(bytes) => bytes.as_ptr() as u64,
            #[cfg(feature = "cuda")]
            Data::Cuda { address, .. } | Data::CudaRaw { address, .. } => address,
            #[cfg(feature = "emulator")]
            Data::Emulator(buffer) => buffer.address(),
        }
    }

    fn size_bytes(&self) -> usize {
        match self.data {
            Data::Host(bytes) => bytes.len(),
            #[cfg(feature = "cuda")]
            Data::Cuda { memory, .. } => memory.size_bytes(),
            #[cfg(feature = "cuda")]
            Data::CudaRaw { size_bytes, .. } => size_bytes,
            #[cfg(feature = "emulator")]
            Data::Emulator(buffer) => buffer.size_bytes(),
        }
    }
}

fn spec(base_address: u64, dtype: DType, layout: &Layout) -> TensorSpec {
    let address = base_address + (layout.offset() * dtype.size_bytes()) as u64;
    TensorSpec { dtype, layout: *layout, alignment_bytes: alignment_of(address) }
}

/// Row-major copy of a layout's elements; `values` starts at the layout's first element.
fn gather<T: Element>(values: &[T], layout: &Layout) -> Vec<T> {
    let count = layout.num_elements();
    if count == 0 {
        return Vec::new();
    }
    if layout.is_contiguous() {
        return values[..count].to_vec();
    }
    let mut out = Vec::with_capacity(count);
    let mut index = [0usize; super::MAX_RANK];
    let rank = layout.rank();
    for _ in 0..count {
        let position: usize = index[..rank].iter().zip(layout.strides()).map(|(i, stride)| i * stride).sum();
        out.push(values[position]);
        for axis in (0..rank).rev() {
            index[axis] += 1;
            if index[axis] < layout.shape()[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

impl TensorMut<'_> {
    /// The same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> TensorMut<'_> {
        let data = match &mut self.data {
            DataMut::Host(bytes) => DataMut::Host(bytes),
            #[cfg(feature = "cuda")]
            DataMut::Cuda { memory, address } => DataMut::Cuda { memory: &mut **memory, address: *address },
            #[cfg(feature = "cuda")]
            DataMut::CudaRaw { address, size_bytes } => DataMut::CudaRaw { address: *address, size_bytes: *size_bytes },
            #[cfg(feature = "emulator")]
            DataMut::Emulator(buffer) => DataMut::Emulator(buffer),
        };
        TensorMut { data, dtype: self.dtype, layout: self.layout, device: self.device, is_fresh: self.is_fresh }
    }
}

impl<'a> TensorMut<'a> {
    pub(crate) fn from_parts(data: DataMut<'a>, dtype: DType, layout: Layout, device: &'a Device) -> TensorMut<'a> {
        TensorMut { data, dtype, layout, device, is_fresh: false }
    }

    /// Says that nothing has touched the memory since it came from the system. A hint for the speed alone: the system clears
    /// such a page when it is first written, which leaves it in the caches, so that results on the CPU go there and not
    /// past them.
    pub fn fresh(self) -> TensorMut<'a> {
        TensorMut { is_fresh: true, ..self }
    }

    /// Whether [`TensorMut::fresh`] was said.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Borrows row-major host values as a tensor on the CPU device.
    ///
    /// # Errors
    /// [`Error::ElementCount`] when `values` does not fill `shape`; [`Error::TooManyDimensions`].
    pub fn from_slice<T: Element>(values: &'a mut [T], shape: impl AsRef<[usize]>) -> Result<TensorMut<'a>> {
        let layout = check_slice(values.len(), shape.as_ref())?;
        Ok(TensorMut::from_parts(DataMut::Host(bytemuck::cast_slice_mut(values)), T::DTYPE, layout, &CPU))
    }

    /// Borrows cudarc memory as a row-major tensor. Work is ordered after cudarc's own on that slice.
    ///
    /// # Errors
    /// [`Error::ElementCount`]; [`Error::DeviceMismatch`] when the slice belongs to another GPU than `device`.
    #[cfg(feature = "cuda")]
    pub fn from_cuda<T: Element>(
        device: &'a Device,
        slice: &'a mut cudarc::driver::CudaSlice<T>,
        shape: impl AsRef<[usize]>,
    ) -> Result<TensorMut<'a>> {
        let layout = check_slice(slice.len(), shape.as_ref())?;
        let address = crate::cuda::slice_address(device, slice)?;
        Ok(TensorMut::from_parts(DataMut::Cuda { memory: slice, address }, T::DTYPE, layout, device))
    }

    /// The same memory seen through another layout.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when the layout reaches past the memory.
    pub fn with_layout(mut self, layout: Layout) -> Result<TensorMut<'a>> {
        check_bounds(self.size_bytes() / self.dtype.size_bytes(), &layout)?;
        self.layout = layout;
        Ok(self)
    }

    /// Two dimensions exchanged, without moving an element.
    ///
    /// # Errors
    /// [`Error::NoSuchDimension`].
    pub fn transpose(mut self, a: usize, b: usize) -> Result<TensorMut<'a>> {
        self.layout = self.layout.transpose(a, b)?;
        Ok(self)
    }

    /// `length` entries of dimension `axis`, from `start` on.
    ///
    /// # Errors
    /// [`Error::NoSuchDimension`].
    pub fn narrow(mut self, axis: usize, start: usize, length: usize) -> Result<TensorMut<'a>> {
        self.layout = self.layout.narrow(axis, start, length)?;
        Ok(self)
    }

    /// The host elements from the first one on. The layout stays within them.
    pub(crate) fn host_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        match &mut self.data {
            DataMut::Host([]) => Ok(&mut []),
            DataMut::Host(bytes) => {
                let address = bytes.as_ptr() as u64;
                let values: &mut [T] = bytemuck::try_cast_slice_mut(bytes)
                    .map_err(|_| Error::Misaligned { address, dtype: self.dtype })?;
                Ok(&mut values[self.layout.offset()..])
            }
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            _ => Err(Error::DeviceMismatch {
                tensor: "the tensor",
                device: self.device.to_string(),
                expected: CPU.to_string(),
            }),
        }
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
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// What a plan reads of this tensor.
    pub fn spec(&self) -> TensorSpec {
        spec(self.base_address(), self.dtype, &self.layout)
    }

    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn data_mut(&mut self) -> &mut DataMut<'a> {
        &mut self.data
    }

    fn base_address(&self) -> u64 {
        match &self.data {
            DataMut::Host(bytes) => bytes.as_ptr() as u64,
            #[cfg(feature = "cuda")]
            DataMut::Cuda { address, .. } | DataMut::CudaRaw { address, .. } => *address,
            #[cfg(feature = "emulator")]
            DataMut::Emulator(buffer) => buffer.address(),
        }
    }

    fn size_bytes(&self) -> usize {
        match &self.data {
            DataMut::Host(bytes) => bytes.len(),
            #[cfg(feature = "cuda")]
            DataMut::Cuda { memory, .. } => memory.size_bytes(),
            #[cfg(feature = "cuda")]
            DataMut::CudaRaw { size_bytes, .. } => *size_bytes,
            #[cfg(feature = "emulator")]
            DataMut::Emulator(buffer) => buffer.size_bytes(),
        }
    }
}
