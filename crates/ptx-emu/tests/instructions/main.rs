//! Each instruction against a scalar model that shares no code with the emulator.

#[path = "../common/mod.rs"]
mod common;
mod harness;

mod atomic;
mod bits;
mod compare;
mod convert;
mod float;
mod half;
mod integer;
mod matrix;
mod memory;
mod movement;
mod warp;
