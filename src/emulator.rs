//! The emulator device: the compiled PTX of the real kernels, run on the CPU by [`ptx_emu`], with hazard checks.
//!
//! It takes the same [`LaunchPlan`] as a GPU. A kernel that commits a hazard (a race, an access outside of memory, a
//! read of what nothing wrote, ...) fails the call with [`Error::Emulator`], which carries every report.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ptx_emu::tensor_map::{self, Element, TENSOR_MAP_BYTES};
use ptx_emu::{Architecture, Memory, Module, Options};
pub use ptx_emu::{Checks, Completion, Counters, Limits, Numerics, Schedule, TensorCore};

use crate::device::{Device, Kind};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::images;
use crate::plan::LaunchPlan;
use crate::target::GpuTarget;
use crate::tensor::{Data, DataMut, TensorMut, TensorRef};
use crate::tensor_map::{Swizzle, TensorMap};
use crate::variants::{Arch, Variant};

/// Sets up an emulated GPU.
///
/// ```no_run
/// use warpfold::emulator::{EmulatorBuilder, Schedule};
/// use warpfold::{GpuTarget, variants::Arch};
/// let device = EmulatorBuilder::new(Arch::Sm80).target(GpuTarget::A40).schedule(Schedule::Random).seed(7).build()?;
/// # Ok::<(), warpfold::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EmulatorBuilder {
    arch: Arch,
    target: GpuTarget,
    schedule: Schedule,
    completion: Completion,
    seed: u64,
    numerics: Numerics,
    tensor_core: TensorCore,
    checks: Checks,
    limits: Limits,
    threads: Option<usize>,
    replaced: HashMap<String, String>,
}

impl EmulatorBuilder {
    /// An A100 or H100, in-order schedule, latest completion of copies, all checks, rayon's current number of threads.
    pub fn new(arch: Arch) -> EmulatorBuilder {
        let target = match arch {
            Arch::Sm80 => GpuTarget::A100,
            Arch::Sm90a => GpuTarget::H100,
        };
        EmulatorBuilder {
            arch,
            target,
            schedule: Schedule::default(),
            completion: Completion::default(),
            seed: 0,
            numerics: Numerics::default(),
            tensor_core: TensorCore::default(),
            checks: Checks::default(),
            limits: Limits::default(),
            threads: None,
            replaced: HashMap::new(),
        }
    }

    /// Sets the limits that plans see and the emulator enforces.
    pub fn target(mut self, target: GpuTarget) -> EmulatorBuilder {
        self.target = target;
        self
    }

    /// Sets the order in which warps and lanes make progress.
    pub fn schedule(mut self, schedule: Schedule) -> EmulatorBuilder {
        self.schedule = schedule;
        self
    }

    /// Sets when asynchronous copies take place.
    pub fn completion(mut self, completion: Completion) -> EmulatorBuilder {
        self.completion = completion;
        self
    }

    /// Sets the seed of everything random; one seed reproduces a run.
    pub fn seed(mut self, seed: u64) -> EmulatorBuilder {
        self.seed = seed;
        self
    }

    /// Sets how instructions with a documented error round.
    pub fn numerics(mut self, numerics: Numerics) -> EmulatorBuilder {
        self.numerics = numerics;
        self
    }

    /// Sets how the tensor cores add up.
    pub fn tensor_core(mut self, tensor_core: TensorCore) -> EmulatorBuilder {
        self.tensor_core = tensor_core;
        self
    }

    /// Sets which hazards are looked for.
    pub fn checks(mut self, checks: Checks) -> EmulatorBuilder {
        self.checks = checks;
        self
    }

    /// Sets bounds on what one launch may use.
    pub fn limits(mut self, limits: Limits) -> EmulatorBuilder {
        self.limits = limits;
        self
    }

    /// Sets the threads that blocks are spread over.
    pub fn threads(mut self, threads: usize) -> EmulatorBuilder {
        self.threads = Some(threads);
        self
    }

    /// Runs other PTX in place of an embedded kernel: how the mutation suite plants its bugs.
    pub fn replace_kernel(mut self, name: impl Into<String>, ptx: impl Into<String>) -> EmulatorBuilder {
        self.replaced.insert(name.into(), ptx.into());
        self
    }

    /// Makes the device.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`]; [`Error::Image`] when the PTX of a replaced kernel does not parse.
    pub fn build(self) -> Result<Device> {
        images::check_built()?;
        let architecture = match (self.target.compute_capability.major, self.target.compute_capability.minor) {
            (8, 6 | 7) => Architecture::Sm86,
            (8, 9) => Architecture::Sm89,
            // Plans for it have kernels of its own, whatever the device is called.
            (9, 0) => Architecture::Sm90a,
            _ => Architecture::Sm80,
        };
        let mut options = Options::new(architecture)
            .schedule(self.schedule)
            .completion(self.completion)
            .seed(self.seed)
            .numerics(self.numerics)
            .tensor_core(self.tensor_core)
            .checks(self.checks)
            .limits(self.limits)
            .shared_bytes_max(self.target.shared_bytes_max);
        if let Some(threads) = self.threads {
            options = options.threads(threads);
        }
        let parse = |(name, text): (&String, &String)| Ok((name.clone(), Arc::new(parse(name, text)?)));
        let replaced = self.replaced.iter().map(parse).collect::<Result<_>>()?;
        Ok(Device::of(Kind::Emulator(Arc::new(EmulatorDevice {
            arch: self.arch,
            target: self.target,
            options,
            memory: Arc::new(Memory::new()),
            last: Mutex::default(),
            replaced,
        }))))
    }
}

/// What the last kernel that ran on an emulator device cost; `None` for another device, or before the first kernel.
pub fn last_counters(device: &Device) -> Option<Counters> {
    let Kind::Emulator(emulator) = device.kind() else { return None };
    let last = emulator.last.lock().unwrap_or_else(PoisonError::into_inner);
    last.of_kernels.get(last.kernel.as_ref()?).cloned()
}

/// What the last run of a kernel on an emulator device cost, whatever ran after it.
pub fn counters_of(device: &Device, kernel: &str) -> Option<Counters> {
    let Kind::Emulator(emulator) = device.kind() else { return None };
    emulator.last.lock().unwrap_or_else(PoisonError::into_inner).of_kernels.get(kernel).cloned()
}

/// How often each kernel ran on an emulator device; empty for another device.
pub fn kernel_runs(device: &Device) -> BTreeMap<String, u64> {
    let Kind::Emulator(emulator) = device.kind() else { return BTreeMap::new() };
    emulator.last.lock().unwrap_or_else(PoisonError::into_inner).num_runs.clone()
}

/// The PTX of an embedded kernel, with source positions: to be edited for [`EmulatorBuilder::replace_kernel`].
///
/// # Errors
/// [`Error::KernelsNotBuilt`]; [`Error::Image`] when this build has no such kernel.
pub fn kernel_ptx(name: &str) -> Result<String> {
    images::unpack_text(images::find(name)?)
}

/// What the last runs cost.
#[derive(Default)]
struct LastRuns {
    /// The kernel that ran last.
    kernel: Option<String>,
    of_kernels: HashMap<String, Counters>,
    /// All of them so far.
    num_runs: BTreeMap<String, u64>,
}

/// One emulated GPU with its memory.
pub(crate) struct EmulatorDevice {
    arch: Arch,
    target: GpuTarget,
    options: Options,
    memory: Arc<Memory>,
    last: Mutex<LastRuns>,
    replaced: HashMap<String, Arc<Module>>,
}

impl EmulatorDevice {
    pub fn arch(&self) -> Arch {
        self.arch
    }

    pub fn target(&self) -> GpuTarget {
        self.target
    }

    /// Memory that nothing wrote yet.
    pub fn allocate(&self, size_bytes: usize) -> Result<Buffer> {
        let address = self.memory.allocate(size_bytes.max(1) as u64, 256).map_err(emulator_error)?;
        Ok(Buffer { memory: self.memory.clone(), address, size_bytes })
    }

    /// Runs a kernel to its end.
    pub fn launch(
        &self,
        plan: &LaunchPlan,
        reads: &[Option<TensorRef<'_>>],
        writes: &mut [Option<&mut TensorMut<'_>>],
    ) -> Result<()> {
        let mut params = plan.params;
        let words = params.words_mut();
        let offset_bytes = |layout: &crate::tensor::Layout, dtype: DType| (layout.offset() * dtype.size_bytes()) as u64;
        for (index, read) in reads.iter().enumerate() {
            let Some(tensor) = read else { continue };
            let Data::Emulator(buffer) = tensor.data() else { return Err(self.foreign(tensor.device())) };
            words[index] = buffer.address() + offset_bytes(tensor.layout(), tensor.dtype());
        }
        for (index, write) in (reads.len()..).zip(writes.iter_mut()) {
            let Some(tensor) = write else { continue };
            let offset = offset_bytes(tensor.layout(), tensor.dtype());
            let device = tensor.device();
            let DataMut::Emulator(buffer) = tensor.data_mut() else { return Err(self.foreign(device)) };
            words[index] = buffer.address() + offset;
        }
        let name = plan.variant.name();
        let module = match self.replaced.get(&name) {
            Some(module) => module.clone(),
            None => embedded(plan.variant, &name)?,
        };
        let mut maps = Vec::with_capacity(plan.tensor_maps().len());
        for map in plan.tensor_maps() {
            maps.push(encode(map, words[map.tensor])?);
        }
        let params: [&[u8]; 2] = [bytemuck::cast_slice(words), maps.as_flattened()];
        let launch = ptx_emu::Launch {
            kernel: module.kernel(&name).map_err(emulator_error)?,
            grid: plan.grid,
            block: plan.block,
            cluster: [1; 3],
            dynamic_shared_bytes: plan.shared_bytes,
            registers: images::find(&name)?.registers,
            params: if maps.is_empty() { &params[..1] } else { &params },
        };
        // Also one that does not come to its end.
        *self.last.lock().unwrap_or_else(PoisonError::into_inner).num_runs.entry(name.clone()).or_default() += 1;
        let report = ptx_emu::run(&launch, &self.memory, &self.options).map_err(emulator_error)?;
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.of_kernels.insert(name.clone(), report.counters);
            last.kernel = Some(name);
        }
        if report.hazards.is_empty() {
            return Ok(());
        }
        let reports: Vec<String> = report.hazards.iter().map(ToString::to_string).collect();
        Err(Error::Emulator { detail: format!("{} hazard(s)\n{}", reports.len(), reports.join("\n")) })
    }

    fn foreign(&self, device: &Device) -> Error {
        Error::DeviceMismatch {
            tensor: "a tensor",
            device: device.to_string(),
            expected: format!("emulator:{}", self.arch.name()),
        }
    }
}

/// A tensor map as the emulator's copy engine reads it.
fn encode(map: &TensorMap, address: u64) -> Result<[u8; TENSOR_MAP_BYTES]> {
    map.check_address(address)?;
    let element = match map.dtype {
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        DType::I32 => Element::S32,
        DType::U8 => Element::U8,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => tensor_map::Swizzle::None,
        Swizzle::Bytes32 => tensor_map::Swizzle::Bytes32,
        Swizzle::Bytes64 => tensor_map::Swizzle::Bytes64,
        Swizzle::Bytes128 => tensor_map::Swizzle::Bytes128,
    };
    let map = tensor_map::TensorMap {
        element,
        address,
        dims: map.dims[..map.rank].to_vec(),
        strides_bytes: map.strides_bytes[..map.rank - 1].to_vec(),
        box_dims: map.box_dims[..map.rank].to_vec(),
        swizzle,
        fills_with_nan: false,
    };
    map.encode().map_err(emulator_error)
}

/// The parsed PTX of an embedded kernel, parsed once a process.
fn embedded(variant: &Variant, name: &str) -> Result<Arc<Module>> {
    static MODULES: OnceLock<Mutex<HashMap<Variant, Arc<Module>>>> = OnceLock::new();
    let mut modules = MODULES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(variant) {
        return Ok(module.clone());
    }
    let module = Arc::new(parse(name, &images::unpack_text(images::find(name)?)?)?);
    modules.insert(*variant, module.clone());
    Ok(module)
}

fn parse(name: &str, text: &str) -> Result<Module> {
    Module::parse(text).map_err(|error| unusable(name, error))
}

fn unusable(name: &str, detail: impl ToString) -> Error {
    Error::Image { kernel: name.to_string(), detail: detail.to_string() }
}

fn emulator_error(error: ptx_emu::Error) -> Error {
    Error::Emulator { detail: error.to_string() }
}

/// The memory of a tensor on an emulator device.
pub(crate) struct Buffer {
    memory: Arc<Memory>,
    address: u64,
    size_bytes: usize,
}

impl Buffer {
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.memory.write(self.address, bytes).map_err(emulator_error)
    }

    pub fn read(&self, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(self.address, bytes).map_err(emulator_error)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The address came from `allocate` and is freed here only, so that freeing cannot fail.
        let _ = self.memory.free(self.address);
    }
}
