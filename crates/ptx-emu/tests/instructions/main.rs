//! Each instruction against a scalar model that shares no code with the emulator.

#[path = "../common/mod.rs"]
mod common;
mod harness;
mod hopper;

mod atomic;
mod bits;
mod bulk;
mod bulk_faults;
mod cluster;
mod compare;
mod convert;
mod float;
mod half;
mod integer;
mod matrix;
mod mbarrier;
mod memory;
mod movement;
mod schedules;
mod setmaxnreg;
mod tensor;
mod warp;
mod wgmma;
