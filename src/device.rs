//! Where tensors live and operations run.

use std::fmt;
use std::str::FromStr;

use crate::cpu::InstructionSet;
use crate::error::{Error, Result};
use crate::target::Target;

/// A device, with the stream that its work is ordered on. Cloning it shares both.
///
/// Its text form is `cpu`, `cpu:avx2` (or another instruction set, see [`Device::cpu_with`]), `cuda:N`, `emulator:sm_80` or
/// `emulator:sm_90a`, and [`str::parse`] reads it.
///
/// ```
/// let device: warpfold::Device = "cpu".parse()?;
/// assert_eq!(device, warpfold::Device::cpu());
/// # Ok::<(), warpfold::Error>(())
/// ```
#[derive(Clone)]
pub struct Device {
    kind: Kind,
    reason: Option<Reason>,
}

/// The CPU device, for views that borrow host memory.
pub(crate) static CPU: Device = Device { kind: Kind::Cpu(None), reason: None };

/// Why [`Device::best`] chose what it chose.
type Reason = std::sync::Arc<str>;

#[derive(Clone)]
pub(crate) enum Kind {
    /// With the instruction set that was asked for; else the best one.
    Cpu(Option<InstructionSet>),
    #[cfg(feature = "cuda")]
    Cuda(std::sync::Arc<crate::cuda::CudaDevice>),
    #[cfg(feature = "emulator")]
    Emulator(std::sync::Arc<crate::emulator::EmulatorDevice>),
}

/// A queue of work on a device, in the order of the calls. Calls on the CPU and on the emulator return when their
/// result is complete; calls on a GPU return when they are queued.
#[derive(Clone, Debug)]
pub struct Stream {
    device: Device,
}

impl Stream {
    /// The device that the stream belongs to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits for all queued work, and reports the faults of kernels that ran before.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn synchronize(&self) -> Result<()> {
        match &self.device.kind {
            Kind::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => cuda.synchronize(),
            #[cfg(feature = "emulator")]
            Kind::Emulator(_) => Ok(()),
        }
    }
}

impl Device {
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn of(kind: Kind) -> Device {
        Device { kind, reason: None }
    }

    /// The processor. Operations run on rayon's current thread pool.
    pub fn cpu() -> Device {
        CPU.clone()
    }

    /// The processor, limited to an instruction set: to compute what a lesser processor would, bit by bit. The names are
    /// `portable`, which every processor has, and on x86-64 `avx2` (with FMA and F16C), `avx512` (F, BW, DQ, VL), `avx512_bf16`
    /// and `amx` (AMX with bf16, beside `avx512_bf16`). [`Device::cpu`] takes the last of these that the processor has, but
    /// `avx512_bf16` only where that is faster than `avx512`: not on Intel's processors.
    ///
    /// ```
    /// let device = warpfold::Device::cpu_with("portable")?;
    /// assert_eq!(device.to_string(), "cpu:portable");
    /// assert_eq!(device.cpu_instruction_set(), Some("portable"));
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InstructionSet`] for a name that is none of these, or one that the processor does not have.
    pub fn cpu_with(instruction_set: &str) -> Result<Device> {
        match InstructionSet::named(instruction_set) {
            Some(set) => Ok(Device::cpu_limited_to(set)),
            None => Err(Error::InstructionSet {
                name: instruction_set.to_string(),
                available: InstructionSet::available().map(InstructionSet::name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    pub(crate) fn cpu_limited_to(set: InstructionSet) -> Device {
        Device { kind: Kind::Cpu(Some(set)), reason: None }
    }

    /// The instruction set by which the CPU device computes, one of the names of [`Device::cpu_with`]; `None` for other devices.
    pub fn cpu_instruction_set(&self) -> Option<&'static str> {
        matches!(self.kind, Kind::Cpu(_)).then(|| self.instruction_set().name())
    }

    /// What the processor's loops are compiled for.
    pub(crate) fn instruction_set(&self) -> InstructionSet {
        match self.kind {
            Kind::Cpu(Some(set)) => set,
            _ => InstructionSet::best(),
        }
    }

    /// GPU number `ordinal`, on a stream of its own.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoGpu`], [`Error::NoSuchDevice`],
    /// [`Error::NoImage`], [`Error::KernelsNotBuilt`]; [`Error::FeatureDisabled`] without the feature `cuda`.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        #[cfg(feature = "cuda")]
        return Ok(Device::of(Kind::Cuda(crate::cuda::CudaDevice::open(ordinal)?)));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(Error::FeatureDisabled { what: "a CUDA device", feature: "cuda" })
        }
    }

    /// The GPU of a cudarc stream; all work is ordered on that stream.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    #[cfg(feature = "cuda")]
    pub fn cuda_on(stream: std::sync::Arc<cudarc::driver::CudaStream>) -> Result<Device> {
        Ok(Device::of(Kind::Cuda(crate::cuda::CudaDevice::on_stream(stream)?)))
    }

    /// An emulated GPU: the compiled PTX of the real kernels, run on the CPU, with hazard checks.
    /// [`crate::emulator::EmulatorBuilder`] sets schedule, seed and target.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`].
    #[cfg(feature = "emulator")]
    pub fn emulator(arch: crate::variants::Arch) -> Result<Device> {
        crate::emulator::EmulatorBuilder::new(arch).build()
    }

    /// The first CUDA device that is usable, else the CPU. [`Device::reason`] says why.
    pub fn best() -> Device {
        match Device::cuda(0) {
            Ok(mut device) => {
                device.reason = Some(format!("{device} is usable").into());
                device
            }
            Err(error) => Device { kind: Kind::Cpu(None), reason: Some(format!("the CPU, because {error}").into()) },
        }
    }

    /// Why [`Device::best`] chose this device; empty for a device that was asked for by name.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("")
    }

    /// What plans for this device may count on.
    pub fn target(&self) -> Target {
        match &self.kind {
            Kind::Cpu(_) => Target::Cpu,
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => Target::Gpu(cuda.target()),
            #[cfg(feature = "emulator")]
            Kind::Emulator(emulator) => Target::Gpu(emulator.target()),
        }
    }

    /// The stream that this device's work is ordered on.
    pub fn stream(&self) -> Stream {
        Stream { device: self.clone() }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }
}

/// Equal devices share memory: a tensor of one can be used on the other.
impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Cpu(_), Kind::Cpu(_)) => true,
            #[cfg(feature = "cuda")]
            (Kind::Cuda(a), Kind::Cuda(b)) => a.shares_context(b),
            #[cfg(feature = "emulator")]
            (Kind::Emulator(a), Kind::Emulator(b)) => std::sync::Arc::ptr_eq(a, b),
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Cpu(None) => f.write_str("cpu"),
            Kind::Cpu(Some(set)) => write!(f, "cpu:{}", set.name()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => write!(f, "cuda:{}", cuda.ordinal()),
            #[cfg(feature = "emulator")]
            Kind::Emulator(emulator) => write!(f, "emulator:{}", emulator.arch().name()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Device> {
        let unknown = || Error::DeviceName { name: name.to_string() };
        match name.split_once(':') {
            None if name == "cpu" => Ok(Device::cpu()),
            Some(("cpu", instruction_set)) => Device::cpu_with(instruction_set),
            None if name == "best" => Ok(Device::best()),
            None if name == "cuda" => Device::cuda(0),
            Some(("cuda", ordinal)) => Device::cuda(ordinal.parse().map_err(|_| unknown())?),
            #[cfg(feature = "emulator")]
            Some(("emulator", name)) => {
                let arch = crate::variants::Arch::ALL.into_iter().find(|arch| arch.name() == name);
                Device::emulator(arch.ok_or_else(unknown)?)
            }
            _ => Err(unknown()),
        }
    }
}
