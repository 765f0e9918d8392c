//! Views of memory that another library owns. The one place outside `src/cuda/` that turns an address into memory.

#![allow(unsafe_code, reason = "an address can only be turned into memory unsafely, and the caller vouches for it")]

use crate::device::{Device, Kind};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Data, DataMut, Layout, TensorMut, TensorRef};

impl<'a> TensorRef<'a> {
    /// Views memory at an address of `device`, for example another library's.
    ///
    /// # Safety
    /// Elements `0..layout.end()` at `address` must be readable on `device` and unchanged for `'a`; on a GPU
    /// they must be ready in the order of the device's stream.
    ///
    /// # Errors
    /// [`Error::Misaligned`]; [`Error::DeviceMismatch`] when `device` has memory of its own (an emulator).
    pub unsafe fn from_raw(address: u64, dtype: DType, layout: Layout, device: &'a Device) -> Result<TensorRef<'a>> {
        let size_bytes = check_raw(address, dtype, &layout)?;
        let data = match device.kind() {
            Kind::Cpu(_) => Data::Host(match size_bytes {
                0 => &[],
                // SAFETY: the caller vouches for this range.
                _ => unsafe { std::slice::from_raw_parts(address as *const u8, size_bytes) },
            }),
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => Data::CudaRaw { address, size_bytes },
            #[cfg(feature = "emulator")]
            Kind::Emulator(_) => return Err(no_raw_memory(device)),
        };
        Ok(TensorRef::from_parts(data, dtype, layout, device))
    }
}

impl<'a> TensorMut<'a> {
    /// Views memory at an address of `device`, to be written.
    ///
    /// # Safety
    /// As [`TensorRef::from_raw`]; nothing else may read or write the memory for `'a`, gaps between the
    /// elements included.
    ///
    /// # Errors
    /// As [`TensorRef::from_raw`].
    pub unsafe fn from_raw(address: u64, dtype: DType, layout: Layout, device: &'a Device) -> Result<TensorMut<'a>> {
        let size_bytes = check_raw(address, dtype, &layout)?;
        let data = match device.kind() {
            Kind::Cpu(_) => DataMut::Host(match size_bytes {
                0 => &mut [],
                // SAFETY: the caller vouches for this range, and that nothing else uses it.
                _ => unsafe { std::slice::from_raw_parts_mut(address as *mut u8, size_bytes) },
            }),
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => DataMut::CudaRaw { address, size_bytes },
            #[cfg(feature = "emulator")]
            Kind::Emulator(_) => return Err(no_raw_memory(device)),
        };
        Ok(TensorMut::from_parts(data, dtype, layout, device))
    }
}

#[cfg(feature = "emulator")]
fn no_raw_memory(device: &Device) -> Error {
    Error::DeviceMismatch {
        tensor: "memory at a raw address",
        device: "this process".to_string(),
        expected: device.to_string(),
    }
}

fn check_raw(address: u64, dtype: DType, layout: &Layout) -> Result<usize> {
    if !address.is_multiple_of(dtype.size_bytes() as u64) {
        return Err(Error::Misaligned { address, dtype });
    }
    let elements = if layout.num_elements() == 0 { 0 } else { layout.end() };
    elements.checked_mul(dtype.size_bytes()).filter(|bytes| *bytes <= isize::MAX as usize).ok_or(Error::TooLarge {
        what: "the size of the memory in elements",
        value: elements,
        limit: isize::MAX as usize,
    })
}
