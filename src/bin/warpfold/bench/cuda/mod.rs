//! A GPU: its events, graphs, ceilings and sensors. Sensors are read, and nothing of the GPU is ever set.

mod cublas;
mod events;
mod loops;
mod sensors;

use std::sync::Arc;

use anyhow::{Result, bail};
use warpfold::cuda::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
use warpfold::cuda::cudarc::driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg as _};
use warpfold::cuda::cudarc::nvrtc::Ptx;
use warpfold::{DType, Device, Target};

use super::ceilings::{Ceiling, Ceilings, Kind, Unit};
use super::machine::Machine;
use super::station::Sample;
use super::times::Rotation;
pub use events::Events;
use loops::{Instruction, Loop};
use sensors::Sensors;

pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    sensors: Option<Sensors>,
}

impl Gpu {
    /// A GPU that `Device::cuda` has opened before: cudarc panics where there is no driver.
    pub fn open(ordinal: usize) -> Result<Gpu> {
        let context = CudaContext::new(ordinal)?;
        // SAFETY: everything of this process runs on one stream, so that no event has to order it; events that were recorded outside
        // of a capture must not be waited for inside.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let sensors = Sensors::open(ordinal, context.uuid().ok());
        Ok(Gpu { context, stream, sensors })
    }

    /// The device whose work is ordered on the stream of the events.
    pub fn device(&self) -> Result<Device> {
        Ok(Device::cuda_on(self.stream.clone())?)
    }

    pub fn events(&self) -> Events {
        Events::new(self.stream.clone())
    }

    pub fn machine(&self) -> Machine {
        let driver = self.sensors.as_ref().and_then(Sensors::driver).or_else(|| match self.device().ok()?.target() {
            Target::Gpu(gpu) => Some(format!("for CUDA {}.{}", gpu.driver / 1000, gpu.driver % 1000 / 10)),
            _ => None,
        });
        Machine::of_gpu(self.context.name().unwrap_or_else(|_| "a GPU".to_string()), driver.unwrap_or_default())
    }

    pub fn rotation(&self) -> Result<Rotation> {
        let cache_bytes = usize::try_from(self.context.attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?)?;
        let (free_bytes, _) = self.context.mem_get_info()?;
        Ok(Rotation { cache_bytes, memory_bytes: free_bytes / 2 })
    }

    pub fn sample(&self) -> Sample {
        self.sensors.as_ref().map(Sensors::sample).unwrap_or_default()
    }

    /// A copy of memory, and products of each type: by cuBLAS, or by a loop where that is missing.
    pub fn ceilings(&self, budget_ms: f64) -> Result<Ceilings> {
        let mut all = vec![self.copy(budget_ms)?];
        let cublas = cublas::load();
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            all.push(match &cublas {
                Ok(()) => cublas::ceiling(&self.events(), dtype, budget_ms)?,
                Err(_) => self.multiply(dtype, budget_ms)?,
            });
        }
        Ok(Ceilings { all, cache_bytes: 0, has_unmeasured_bf16: false })
    }

    fn copy(&self, budget_ms: f64) -> Result<Ceiling> {
        let (free_bytes, _) = self.context.mem_get_info()?;
        let bytes = (1usize << 30).min(free_bytes / 4);
        let source = self.stream.alloc_zeros::<u8>(bytes)?;
        let mut target = self.stream.alloc_zeros::<u8>(bytes)?;
        let mut call = || Ok(self.stream.memcpy_dtod(&source, &mut target)?);
        Ok(Ceiling {
            kind: Kind::Copy,
            problem: format!("{} MB", bytes >> 20),
            measured: self.events().measure(&mut call, 1, budget_ms)?,
            work: 2.0 * bytes as f64,
            unit: Unit::Gigabytes,
            note: "from device to device, by the driver".to_string(),
        })
    }

    /// The rate of the arithmetic units by themselves.
    fn multiply(&self, dtype: DType, budget_ms: f64) -> Result<Ceiling> {
        // About a millisecond, and few enough for the sums to be exact.
        const ROUNDS: u32 = 4096;
        let Target::Gpu(gpu) = self.device()?.target() else { bail!("a GPU has a GPU's target") };
        let capability = (gpu.compute_capability.major, gpu.compute_capability.minor);
        let Loop { instruction, text, ones, blocks_per_sm, flops, growth } = loops::of_dtype(dtype, capability);
        let module = self.context.load_module(Ptx::from_src(text))?;
        let function = module.load_function(loops::ENTRY)?;
        let blocks = gpu.num_sms * blocks_per_sm;
        let mut results = self.stream.alloc_zeros::<f32>((blocks * loops::THREADS) as usize)?;
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (loops::THREADS, 1, 1), shared_mem_bytes: 0 };
        let mut call = || {
            let mut launch = self.stream.launch_builder(&function);
            launch.arg(&mut results).arg(&ROUNDS).arg(&ones);
            // SAFETY: the parameters are those of the entry, and it writes one f32 a thread.
            unsafe { launch.launch(config) }?;
            Ok(())
        };
        let measured = self.events().measure(&mut call, 1, budget_ms)?;
        let expected = (f64::from(ROUNDS) * growth) as f32;
        if let Some(wrong) = self.stream.clone_dtoh(&results)?.into_iter().find(|sum| *sum != expected) {
            bail!("a loop of products gave {wrong} instead of {expected}");
        }
        let name = match instruction {
            Instruction::Mma => "mma.sync",
            Instruction::Wgmma => "wgmma",
            Instruction::Fma => "fma",
        };
        Ok(Ceiling {
            kind: Kind::Matrix(dtype),
            problem: format!("{ROUNDS} rounds of {name}"),
            measured,
            work: flops as f64 * f64::from(blocks) * f64::from(ROUNDS),
            unit: Unit::Teraflops,
            note: "a loop without memory, on ones (cuBLAS is missing)".to_string(),
        })
    }
}
