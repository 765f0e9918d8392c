//! The CUDA device: driver, memory, modules and launches through cudarc. The only place that launches kernels.
//!
//! cudarc's types are public in `Device::cuda_on`, `from_cuda` and `into_cuda_slice`, and the crate itself is here, in the
//! version that fits.

#![allow(unsafe_code, reason = "the driver's API is unsafe; each block says why it holds")]

mod memory;
mod modules;
mod probe;
mod tensor_map;

pub use cudarc;
pub(crate) use memory::{Buffer, ReadMemory, WriteMemory, read, slice_address};
pub use modules::image;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, SyncOnDrop, sys};

use crate::error::{Error, Result};
use crate::plan::LaunchPlan;
use crate::target::{ComputeCapability, GpuTarget};
use crate::tensor::{Data, DataMut, TensorMut, TensorRef};
use modules::Modules;

/// The number of GPUs that the driver shows.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoGpu`].
pub fn device_count() -> Result<usize> {
    probe::check_driver()?;
    probe::device_count()
}

/// The most tensors that a kernel's parameter struct names: the parts of a merge, their lses, sinks and two results.
const OPERANDS_MAX: usize = 2 * crate::attention::Merge::PARTS_MAX + 3;

/// A GPU with the stream that its work is ordered on.
pub(crate) struct CudaDevice {
    stream: Arc<CudaStream>,
    target: GpuTarget,
    modules: Arc<Modules>,
}

impl CudaDevice {
    /// GPU `ordinal`, on a new stream of its primary context.
    pub fn open(ordinal: usize) -> Result<Arc<CudaDevice>> {
        // Without a GPU it does not matter whether there are kernels.
        let count = device_count()?;
        if ordinal >= count {
            return Err(Error::NoSuchDevice { ordinal, count });
        }
        crate::images::check_built()?;
        let context = CudaContext::new(ordinal).map_err(driver_error("opening the GPU"))?;
        let stream = context.new_stream().map_err(driver_error("creating a stream"))?;
        CudaDevice::on_stream(stream)
    }

    /// The GPU of a stream that the caller made.
    pub fn on_stream(stream: Arc<CudaStream>) -> Result<Arc<CudaDevice>> {
        crate::images::check_built()?;
        let target = describe(stream.context())?;
        if target.compute_capability.major < 8 {
            return Err(Error::NoImage {
                device: format!("cuda:{}", stream.context().ordinal()),
                capability: target.compute_capability.to_string(),
                needed: "8.0",
            });
        }
        let modules = Modules::of_context(stream.context());
        Ok(Arc::new(CudaDevice { stream, target, modules }))
    }

    pub fn ordinal(&self) -> usize {
        self.stream.context().ordinal()
    }

    pub fn target(&self) -> GpuTarget {
        self.target
    }

    /// Whether both can use each other's memory.
    pub fn shares_context(&self, other: &CudaDevice) -> bool {
        self.stream.context().cu_ctx() == other.stream.context().cu_ctx()
    }

    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(driver_error("waiting for the stream"))?;
        // cudarc keeps the errors of dropped guards and slices here.
        self.stream.context().check_err().map_err(driver_error("earlier work on the GPU"))
    }

    pub fn allocate(&self, size_bytes: usize) -> Result<Buffer> {
        Buffer::allocate(&self.stream, size_bytes)
    }

    /// Loads a plan's kernel, so that launching it later allocates nothing.
    pub fn prepare(&self, plan: &LaunchPlan) -> Result<()> {
        self.modules.function(plan.variant, &self.target).map(|_| ())
    }

    /// Queues a kernel on the device's stream.
    pub fn launch(
        &self,
        plan: &LaunchPlan,
        reads: &[Option<TensorRef<'_>>],
        writes: &mut [Option<&mut TensorMut<'_>>],
    ) -> Result<()> {
        let function = self.modules.function(plan.variant, &self.target)?;
        let mut params = plan.params;
        let words = params.words_mut();
        // The guards order the kernel after the memory's last use and must live until it is queued.
        let mut guards: [Option<SyncOnDrop<'_>>; OPERANDS_MAX] = [const { None }; OPERANDS_MAX];
        for (index, read) in reads.iter().enumerate() {
            let Some(tensor) = read else { continue };
            let (base, guard) = match tensor.data() {
                Data::Cuda { memory, .. } => {
                    let (address, guard) = memory.address(&self.stream);
                    (address, Some(guard))
                }
                Data::CudaRaw { address, .. } => (address, None),
                _ => return Err(foreign(tensor.device(), self)),
            };
            words[index] = base + (tensor.layout().offset() * tensor.dtype().size_bytes()) as u64;
            guards[index] = guard;
        }
        for (index, write) in (reads.len()..).zip(writes.iter_mut()) {
            let Some(tensor) = write else { continue };
            let offset = (tensor.layout().offset() * tensor.dtype().size_bytes()) as u64;
            let device = tensor.device();
            let (base, guard) = match tensor.data_mut() {
                DataMut::Cuda { memory, .. } => {
                    let (address, guard) = memory.address_mut(&self.stream);
                    (address, Some(guard))
                }
                DataMut::CudaRaw { address, .. } => (*address, None),
                _ => return Err(foreign(device, self)),
            };
            words[index] = base + offset;
            guards[index] = guard;
        }
        self.stream.context().bind_to_thread().map_err(driver_error("binding the context"))?;
        // The list is longer than what the kernel takes: it reads as many maps as its own struct has.
        let mut maps = tensor_map::encode(plan.tensor_maps(), words)?;
        let mut arguments = [words.as_mut_ptr().cast::<c_void>(), maps.as_mut_ptr().cast::<c_void>()];
        let arguments = if plan.tensor_maps().is_empty() { &mut arguments[..1] } else { &mut arguments[..] };
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (plan.grid, plan.block);
        let config = sys::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: plan.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: std::ptr::null_mut(),
            numAttrs: 0,
        };
        // SAFETY: the kernel takes as many parameters as there are arguments: the struct that `words` holds, which is
        // generated from kernels/lib/params.h as the kernel's is, and where the plan has tensor maps a struct of as many.
        // The contract checked every tensor that the struct addresses against the shapes and strides beside the addresses,
        // the maps describe these tensors, and the guards keep the memory alive and ordered until the kernel is queued;
        // memory is freed in stream order.
        unsafe {
            sys::cuLaunchKernelEx(&config, function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut())
                .result()
        }
        .map_err(driver_error("launching a kernel"))
    }
}

fn foreign(device: &crate::device::Device, expected: &CudaDevice) -> Error {
    Error::DeviceMismatch {
        tensor: "a tensor",
        device: device.to_string(),
        expected: format!("cuda:{}", expected.ordinal()),
    }
}

fn describe(context: &Arc<CudaContext>) -> Result<GpuTarget> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |attribute| {
        context.attribute(attribute).map(|value| value as u32).map_err(driver_error("reading the GPU's limits"))
    };
    Ok(GpuTarget {
        compute_capability: ComputeCapability {
            major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        },
        num_sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_max: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver: probe::driver_version()?,
    })
}

/// Names what was being done when the driver refused.
pub(crate) fn driver_error(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda {
        call,
        code: error.0 as u32,
        message: error.error_string().map_or_else(
            |_| "an error that the driver has no words for".to_string(),
            |text| text.to_string_lossy().into_owned(),
        ),
    }
}
