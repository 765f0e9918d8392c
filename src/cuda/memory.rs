//! GPU memory: owned buffers, and the traits behind which a view holds any cudarc slice.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop, result};

use crate::cuda::driver_error;
use crate::device::{Device, Kind};
use crate::error::{Error, Result};
use crate::tensor::{Data, Element};

/// cudarc memory that a kernel reads.
pub(crate) trait ReadMemory: Send + Sync {
    /// The address, for work that is queued on `stream` before the guard drops.
    fn address<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>);
    fn size_bytes(&self) -> usize;
}

/// cudarc memory that a kernel writes.
pub(crate) trait WriteMemory: ReadMemory {
    /// The address, for work that is queued on `stream` before the guard drops.
    fn address_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>);
}

impl<T: Send + Sync> ReadMemory for CudaSlice<T> {
    fn address<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.device_ptr(stream)
    }
    fn size_bytes(&self) -> usize {
        self.num_bytes()
    }
}

impl<T: Send + Sync> WriteMemory for CudaSlice<T> {
    fn address_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.device_ptr_mut(stream)
    }
}

/// The memory of an owned tensor.
pub(crate) struct Buffer {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Buffer {
    /// Memory with any contents.
    pub fn allocate(stream: &Arc<CudaStream>, size_bytes: usize) -> Result<Buffer> {
        // The driver has no allocation of zero bytes.
        let size_bytes = size_bytes.max(1);
        // SAFETY: every bit pattern is a value of the element types, so reading memory before an operation has filled it
        // yields some numbers and nothing worse.
        let slice = unsafe { stream.alloc::<u8>(size_bytes) }.map_err(driver_error("allocating GPU memory"))?;
        let address = slice.device_ptr(stream).0;
        Ok(Buffer { slice, address })
    }

    /// The address, for checks of alignment; launches take it through [`ReadMemory`].
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = self.slice.stream().clone();
        stream.memcpy_htod(bytes, &mut self.slice).map_err(driver_error("copying to the GPU"))
    }

    /// The first `elements` of type T as a slice of their own.
    pub fn into_slice<T: Element>(self, elements: usize) -> Result<CudaSlice<T>> {
        let stream = self.slice.stream().clone();
        stream.synchronize().map_err(driver_error("waiting for the stream"))?;
        let address = self.slice.leak();
        // SAFETY: the allocation is one of cudarc's, just given up by its owner, aligned for every type, holds at least
        // `elements` of T (the tensor was allocated for them), and every bit pattern is a value of T.
        Ok(unsafe { stream.upgrade_device_ptr::<T>(address, elements) })
    }
}

impl ReadMemory for Buffer {
    fn address<'a>(&'a self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.slice.address(stream)
    }
    fn size_bytes(&self) -> usize {
        self.slice.num_bytes()
    }
}

impl WriteMemory for Buffer {
    fn address_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        self.slice.address_mut(stream)
    }
}

/// Copies the start of GPU memory to the host: waits for the device's stream and reports its faults.
pub(crate) fn read(device: &Device, data: Data<'_>, out: &mut [u8]) -> Result<()> {
    let Kind::Cuda(cuda) = device.kind() else {
        return Err(Error::DeviceMismatch {
            tensor: "the tensor",
            device: device.to_string(),
            expected: "a CUDA device".to_string(),
        });
    };
    cuda.stream.context().bind_to_thread().map_err(driver_error("binding the context"))?;
    if !out.is_empty() {
        let (address, _guard) = match data {
            Data::Cuda { memory, .. } => {
                let (address, guard) = memory.address(&cuda.stream);
                (address, Some(guard))
            }
            Data::CudaRaw { address, .. } => (address, None),
            _ => return Err(super::foreign(device, cuda)),
        };
        // SAFETY: a view's layout stays within its memory and `out` is no longer than the layout's reach; the copy is
        // complete before `out` is used, because the stream is waited for below.
        unsafe { result::memcpy_dtoh_async(out, address, cuda.stream.cu_stream()) }
            .map_err(driver_error("copying from the GPU"))?;
    }
    cuda.synchronize()
}

/// The address of a foreign slice, which must be on the device's GPU.
pub(crate) fn slice_address<T>(device: &Device, slice: &CudaSlice<T>) -> Result<u64> {
    match device.kind() {
        Kind::Cuda(cuda) if cuda.stream.context().cu_ctx() == slice.context().cu_ctx() => {
            Ok(slice.device_ptr(&cuda.stream).0)
        }
        _ => Err(Error::DeviceMismatch {
            tensor: "the slice",
            device: format!("cuda:{}", slice.ordinal()),
            expected: device.to_string(),
        }),
    }
}
