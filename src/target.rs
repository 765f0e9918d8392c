//! What a plan is made for: a GPU's limits, or the CPU. A target is plain data; tests invent them.

use std::fmt;

/// A GPU's compute capability, such as 9.0 for an H100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeCapability {
    /// The generation.
    pub major: u32,
    /// The member of the generation.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a plan may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// The processor, through rayon's current pool.
    Cpu,
    /// A GPU, real, emulated or invented.
    Gpu(GpuTarget),
}

/// The limits of a GPU that a plan reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GpuTarget {
    /// The compute capability.
    pub compute_capability: ComputeCapability,
    /// Streaming multiprocessors.
    pub num_sms: u32,
    /// The most dynamic shared memory that a block can have, opt-in included, in bytes.
    pub shared_bytes_max: u32,
    /// The CUDA version that the driver supports, as `1000 * major + 10 * minor`.
    pub driver: u32,
}

impl GpuTarget {
    /// An A100: 108 SMs of compute capability 8.0, 163 KB of shared memory a block.
    pub const A100: GpuTarget = GpuTarget::new(8, 0, 108, 163 << 10);
    /// An RTX A6000 or A40: 84 SMs of compute capability 8.6, 99 KB of shared memory a block.
    pub const A40: GpuTarget = GpuTarget::new(8, 6, 84, 99 << 10);
    /// An L40S or RTX 4090 class GPU: compute capability 8.9, 99 KB of shared memory a block.
    pub const L40S: GpuTarget = GpuTarget::new(8, 9, 142, 99 << 10);
    /// An H100 SXM: 132 SMs of compute capability 9.0, 227 KB of shared memory a block.
    pub const H100: GpuTarget = GpuTarget::new(9, 0, 132, 227 << 10);

    const fn new(major: u32, minor: u32, num_sms: u32, shared_bytes_max: u32) -> GpuTarget {
        GpuTarget { compute_capability: ComputeCapability { major, minor }, num_sms, shared_bytes_max, driver: 13000 }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cpu => f.write_str("cpu"),
            Target::Gpu(gpu) => write!(
                f,
                "a GPU of compute capability {} ({} SMs, {} KB of shared memory a block)",
                gpu.compute_capability,
                gpu.num_sms,
                gpu.shared_bytes_max >> 10
            ),
        }
    }
}
