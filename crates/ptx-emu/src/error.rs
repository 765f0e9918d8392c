//! Everything that keeps a kernel from being run. What a kernel does wrong *while* it runs is not
//! an error but a [`Hazard`](crate::Hazard).

use thiserror::Error;

/// The reason why a module, a memory request or a launch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not well-formed PTX.
    #[error("line {line}: {message}")]
    Parse {
        /// 1-based line in the PTX text.
        line: u32,
        /// What was expected and what was found.
        message: String,
    },
    /// An instruction, modifier or operand that this emulator does not model.
    #[error("line {line}: `{instruction}` is not modelled: {reason} (PTX ISA, {section})")]
    Unsupported {
        /// 1-based line in the PTX text.
        line: u32,
        /// The instruction with all its modifiers.
        instruction: String,
        /// Which part of it is unknown.
        reason: String,
        /// Section of the PTX ISA manual that describes the instruction.
        section: &'static str,
    },
    /// The module has no entry of that name.
    #[error("no kernel `{name}` in the module; it has: {}", available.join(", "))]
    UnknownKernel {
        /// The name that was asked for.
        name: String,
        /// The entries of the module.
        available: Vec<String>,
    },
    /// A variable, label or function is used but not defined.
    #[error("line {line}: unknown symbol `{name}`")]
    UnknownSymbol {
        /// 1-based line in the PTX text; 0 for a request from the host.
        line: u32,
        /// The name.
        name: String,
    },
    /// The launch parameters do not fit the kernel's signature.
    #[error("kernel `{kernel}` takes {expected_count} parameters, the launch has {count}")]
    ParameterCount {
        /// Kernel name.
        kernel: String,
        /// Parameters in the signature.
        expected_count: usize,
        /// Parameters in the launch.
        count: usize,
    },
    /// One parameter has the wrong size.
    #[error("parameter {index} (`{name}`) is {expected_bytes} bytes long, the launch gives {bytes}")]
    ParameterSize {
        /// Position in the signature.
        index: usize,
        /// Name in the PTX.
        name: String,
        /// Size in the signature.
        expected_bytes: usize,
        /// Size given.
        bytes: usize,
    },
    /// Grid or block dimensions that no device accepts, or that the kernel forbids.
    #[error("cannot launch: {message}")]
    LaunchShape {
        /// The dimension, its value and the bound.
        message: String,
    },
    /// The block needs more shared memory than the options grant.
    #[error("the block needs {bytes} bytes of shared memory, the device grants {limit_bytes}")]
    SharedMemory {
        /// Static plus dynamic bytes.
        bytes: u64,
        /// The limit in the options.
        limit_bytes: u32,
    },
    /// A limit of the options was reached.
    #[error("limit reached: {what} (limit {limit})")]
    Limit {
        /// What ran out.
        what: &'static str,
        /// The configured bound.
        limit: u64,
    },
    /// An address that no live allocation covers.
    #[error("address {address:#x} with {bytes} bytes is not inside one live allocation")]
    InvalidAddress {
        /// First byte asked for.
        address: u64,
        /// Length of the request.
        bytes: u64,
    },
    /// An allocation request that cannot be met.
    #[error("cannot allocate {bytes} bytes aligned to {alignment}: {message}")]
    Allocation {
        /// Size asked for.
        bytes: u64,
        /// Alignment asked for.
        alignment: u64,
        /// The reason.
        message: &'static str,
    },
    /// A tensor map that the driver would refuse.
    #[error("tensor map: {message}")]
    TensorMap {
        /// What is wrong with it.
        message: String,
    },
}
