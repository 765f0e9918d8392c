//! Runs the PTX of CUDA kernels on the CPU and reports what is wrong with them: accesses outside of
//! memory, reads of what nothing wrote, data races, asynchronous copies that are touched too early,
//! barriers that not everyone reaches. No GPU and no driver is needed.
//!
//! ```
//! use ptx_emu::{Architecture, Launch, Memory, Module, Options};
//!
//! let ptx = "
//! .version 7.8
//! .target sm_80
//! .address_size 64
//! .visible .entry double(.param .u64 values) {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<3>;
//!     ld.param.u64 %rd1, [values];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd2, %r1, 4;
//!     add.s64 %rd1, %rd1, %rd2;
//!     ld.global.u32 %r2, [%rd1];
//!     shl.b32 %r2, %r2, 1;
//!     st.global.u32 [%rd1], %r2;
//!     ret;
//! }";
//! let module = Module::parse(ptx)?;
//! let memory = Memory::new();
//! let values = memory.allocate(4 * 32, 256)?;
//! memory.write(values, &21u32.to_le_bytes().repeat(32))?;
//! let launch = Launch {
//!     kernel: module.kernel("double")?,
//!     grid: [1, 1, 1],
//!     block: [32, 1, 1],
//!     cluster: [1, 1, 1],
//!     registers: 0,
//!     dynamic_shared_bytes: 0,
//!     params: &[&values.to_le_bytes()],
//! };
//! let report = ptx_emu::run(&launch, &memory, &Options::new(Architecture::Sm80))?;
//! assert!(report.hazards.is_empty());
//! let mut word = [0; 4];
//! memory.read(values + 124, &mut word)?;
//! assert_eq!(u32::from_le_bytes(word), 42);
//! # Ok::<(), ptx_emu::Error>(())
//! ```
//!
//! # What is modelled
//!
//! What nvcc emits for `compute_80`: integer, f32, f64, f16 and bf16 arithmetic with the exact rounding of each
//! instruction, conversions, every state space, atomics and fences, `cp.async`, `ldmatrix`, `stmatrix`, `mma.sync` for
//! f16, bf16 and tf32, block and warp barriers, shuffles, votes, matches, reductions, divergence with independent
//! progress of lanes. And what `compute_90a` adds: mbarriers, bulk and tensor copies with their reductions and multicast,
//! proxy fences, `wgmma` for f16, bf16 and tf32, clusters with their shared memory, `setmaxnreg`, `elect`. The crate's
//! README has the whole list.
//!
//! A tensor map is made by [`tensor_map::TensorMap`], whose 128 bytes go into a kernel parameter as the driver's would.
//!
//! # What is not
//!
//! Calls of device functions, textures, carry arithmetic, integer and f64 matrix products, sparse ones, f8; `im2col` and
//! interleaved tensor maps and changes to a map on the device, `cp.async.mbarrier.arrive`, `mbarrier.pending_count`, and
//! what came after sm_90a. Launching a kernel that holds such an instruction is an [`Error::Unsupported`] with the line,
//! the instruction and the manual's section; nothing is skipped silently.
//!
//! # How hazards are found
//!
//! Every access is checked against a shadow of the memory that knows who touched it last, with vector clocks per warp
//! that barriers, fences and atomics join: two accesses are ordered or they are not, whatever order they happened to run
//! in. Between the points where the lanes of a warp meet, lanes are told apart too. An asynchronous copy owns its
//! destination until the wait that covers it, and what it wrote is there only for those who waited, or heard of a wait. The
//! clocks also tell which accesses a `fence.proxy.async` lies behind.
#![deny(missing_docs)]
#![deny(unsafe_code)]
// Most loops here run over the 32 lanes of several arrays at once.
#![allow(clippy::needless_range_loop)]

mod counters;
mod decode;
mod error;
mod hazard;
mod instructions;
mod launch;
mod machine;
mod memory;
mod module;
mod numerics;
mod options;
mod shadow;
pub mod tensor_map;

pub use counters::{Counters, GlobalAccess, LineCount, Sectors, SharedAccess, Wavefronts};
pub use error::Error;
pub use hazard::{Access, Hazard, HazardKind, MbarrierFault, Other, Stuck};
pub use launch::{Launch, Report, run};
pub use memory::Memory;
pub use module::types::Space;
pub use module::{Kernel, Module, Parameter, Position};
pub use options::{Architecture, Checks, Completion, Limits, Numerics, Options, Schedule, TensorCore};
