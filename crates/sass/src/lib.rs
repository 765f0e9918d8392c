//! NVIDIA machine code without a GPU: what nvdisasm prints of a cubin, as instructions, loops, cycles and occupancy.
//!
//! A crate of its own because a test of warpfold and a program that links warpfold both read machine code, and neither
//! may depend on the other. It knows nothing of warpfold and starts no process.
//!
//! ```
//! let listing = "
//! \t.section\t.text.add,\"ax\",@progbits
//! \t.sectioninfo\t@\"SHI_REGISTERS=8\"
//! .L_x_0:
//!         /*0000*/                   IADD3 R0, R0, 0x1, RZ ;
//!         /*0010*/              @!P0 BRA `(.L_x_0) ;
//!         /*0020*/                   EXIT ;
//! ";
//! let functions = sass::functions(listing);
//! let loops = sass::loops(&functions[0], &sass::Rates::A100);
//! assert_eq!(functions[0].registers, Some(8));
//! assert_eq!(loops[0].instructions, 2);
//! ```

#![deny(missing_docs)]

mod flow;
mod listing;
mod occupancy;
mod units;

pub use flow::{Loop, costliest_loop, loops, main_loop};
pub use listing::{Function, Instruction, functions};
pub use occupancy::{Block, Gpu, Occupancy};
pub use units::{Class, Cycles, Mix, Rates};
