//! Every device against the float64 oracle. One program, so that it holds the kernels once: a bundle for machines with a GPU
//! carries it.

mod attention;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "cuda")]
mod cuda;
mod json;
mod random;
#[path = "../recipes/mod.rs"]
mod recipes;
mod rows;
