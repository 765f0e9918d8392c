//! Loops and tile products for vectors of f32, written once over [`vector::Simd`] and compiled for several instruction sets, of
//! which one is chosen at run time.

#![allow(
    unsafe_code,
    reason = "vectors are loaded and stored by pointers, and instructions are called after checking for them"
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod few;
mod math;
mod panel;
mod philox;
mod portable;
mod product;
mod rows;
mod slices;
#[cfg(test)]
mod tests;
#[cfg(any(test, target_arch = "x86_64"))]
mod tiles;
mod vector;

use std::sync::OnceLock;

pub(crate) use few::{FEW, TypedRows};
pub(crate) use panel::{LaneKeys, Running};
pub(crate) use philox::{GROUP_KEYS, keep_factors};
pub(crate) use product::{Elements, Left, Right, Update};
pub(crate) use rows::{
    Stats, Store, add, dot, hide, log_softmax_gradients, moments, multiply_nonzero, narrow, norm_gradients, normalize,
    scale, softcap, softmax, softmax_gradients, subtract_distances, sum_of_squares, widen,
};
#[cfg(target_arch = "x86_64")]
use tiles::Tiles as _;
use vector::{Simd, vectorized};

/// What [`InstructionSet::hold_tiles`] returns where there are tiles.
#[cfg(target_arch = "x86_64")]
pub(crate) type HeldTiles = amx::Held;
/// Without tiles there is nothing to hold.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) type HeldTiles = std::convert::Infallible;

/// The lanes of the longest vector; row lengths in scratch memory are multiples of it.
pub(crate) const LANES: usize = 16;

/// What the processor offers, as far as it matters here; the dearest one last. Values other than the portable ones exist only
/// where the processor has the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstructionSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(avx512::Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Amx),
    /// As wide as AVX-512 and with products of bf16 pairs, but by plain Rust.
    #[cfg(test)]
    PortablePairs,
    /// The same with products of tiles.
    #[cfg(test)]
    PortableTiles,
}

impl InstructionSet {
    /// Every name that [`InstructionSet::named`] knows on this kind of processor.
    #[cfg(target_arch = "x86_64")]
    pub const NAMES: &[&str] = &["portable", "avx2", "avx512", "avx512_bf16", "amx"];
    /// Every name that [`InstructionSet::named`] knows on this kind of processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub const NAMES: &[&str] = &["portable"];

    /// One of [`InstructionSet::NAMES`], if the processor has it.
    pub fn named(name: &str) -> Option<InstructionSet> {
        match name {
            "portable" => Some(InstructionSet::Portable),
            #[cfg(target_arch = "x86_64")]
            "avx2" => avx2::Avx2::detect().map(InstructionSet::Avx2),
            #[cfg(target_arch = "x86_64")]
            "avx512" => avx512::Avx512::detect().map(InstructionSet::Avx512),
            #[cfg(target_arch = "x86_64")]
            "avx512_bf16" => avx512::Avx512::detect().map(InstructionSet::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            "amx" => amx::Amx::detect().map(InstructionSet::Amx),
            _ => None,
        }
    }

    /// What the processor has, the dearest one last.
    pub fn available() -> impl DoubleEndedIterator<Item = InstructionSet> {
        InstructionSet::NAMES.iter().filter_map(|name| InstructionSet::named(name))
    }

    /// Everything that can be tested on this processor.
    #[cfg(test)]
    pub fn all() -> impl Iterator<Item = InstructionSet> {
        InstructionSet::available().chain([InstructionSet::PortablePairs, InstructionSet::PortableTiles])
    }

    /// The best one that the processor has.
    pub fn best() -> InstructionSet {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        let is_worthwhile = |set: &InstructionSet| match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16(_) => avx512::pairs_are_fast(),
            _ => true,
        };
        *BEST.get_or_init(|| InstructionSet::available().rfind(is_worthwhile).unwrap_or(InstructionSet::Portable))
    }

    pub fn name(self) -> &'static str {
        match self {
            InstructionSet::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16(_) => "avx512_bf16",
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx(_) => "amx",
            #[cfg(test)]
            InstructionSet::PortablePairs => "portable_pairs",
            #[cfg(test)]
            InstructionSet::PortableTiles => "portable_tiles",
        }
    }

    /// The elements of a vector.
    pub fn lanes(self) -> usize {
        match self {
            InstructionSet::Portable => portable::Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2(_) => avx2::Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512(_) | InstructionSet::Avx512Bf16(_) | InstructionSet::Amx(_) => {
                avx512::Avx512::<true>::LANES
            }
            #[cfg(test)]
            InstructionSet::PortablePairs | InstructionSet::PortableTiles => portable::WidePortable::LANES,
        }
    }

    /// Whether products of bf16 pairs are faster than those of f32.
    pub fn multiplies_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16(_) | InstructionSet::Amx(_) => true,
            #[cfg(test)]
            InstructionSet::PortablePairs | InstructionSet::PortableTiles => true,
            _ => false,
        }
    }

    /// Whether those products are of tiles, which few rows do not slow down.
    pub fn multiplies_tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx(_) => true,
            #[cfg(test)]
            InstructionSet::PortableTiles => true,
            _ => false,
        }
    }

    /// Makes this thread ready for many products, until the result is dropped.
    pub fn hold_tiles(self) -> Option<HeldTiles> {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx(amx) => Some(amx.hold()),
            _ => None,
        }
    }

    /// The set without its products of tiles, which only [`product`] knows.
    fn of_vectors(self) -> InstructionSet {
        match self {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx(amx) => InstructionSet::Avx512Bf16(amx.avx512()),
            #[cfg(test)]
            InstructionSet::PortableTiles => InstructionSet::PortablePairs,
            set => set,
        }
    }
}

/// The product of `[m, depth]` and `[depth, n]`, by which c is updated; n is a multiple of the set's lanes, and rows of c are
/// `c_stride` apart.
#[allow(clippy::too_many_arguments, reason = "two matrices, and where their product goes")]
pub(crate) fn product(
    set: InstructionSet,
    elements: Elements,
    a: Left<'_>,
    b: Right<'_>,
    c: &mut [f32],
    c_stride: usize,
    update: Update<'_>,
    size: [usize; 3],
) {
    match (set, elements) {
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Amx(amx), Elements::Pairs) => amx.product(a, b, c, c_stride, update, size),
        #[cfg(test)]
        (InstructionSet::PortableTiles, Elements::Pairs) => {
            tiles::product(portable::WidePortable, a, b, c, c_stride, update, size);
        }
        _ => product_of_vectors(set, elements, a, b, c, c_stride, update, size),
    }
}

vectorized! {
    /// [`product`] without tiles.
    fn product_of_vectors<'a>(
        elements: Elements, a: Left<'a>, b: Right<'a>, c: &mut [f32], c_stride: usize, update: Update<'a>, size: [usize; 3],
    ) = product::product;

    /// The scores of few queries, for as many of `keys` as it returns: element (key, query) of `scores`, whose rows are `width`
    /// apart. Element (depth, query) of q is `q[depth * width + query]`; of pairs, where `has_pairs`, depth counts them. The size is
    /// `[keys, queries, depth]`.
    pub(crate) fn scores_of_few(
        k: TypedRows<'_>, q: &[f32], has_pairs: bool, scores: &mut [f32], width: usize, size: [usize; 3],
    ) -> usize = few::scores_of_few;

    /// `sums = rescale sums + weights^T v` for few queries: element (key, query) of the weights is `weights[key * width + query]`.
    /// The size is `[queries, columns, keys]`; columns are whole vectors. Rows of sums are `stride` apart.
    pub(crate) fn values_of_few(
        weights: &[f32], width: usize, v: TypedRows<'_>, sums: &mut [f32], stride: usize, rescale: &[f32], size: [usize; 3],
    ) = few::values_of_few;

    /// Replaces a panel's scores by `2^(factor * (score - max))`, with each lane's new maximum, and updates what the lanes have seen.
    /// `scores` are whole rows of `width` lanes. Where `joins`, rows 2i and 2i + 1 become row i, as [`pair_rows`] joins them.
    pub(crate) fn softmax_panel(
        scores: &mut [f32], width: usize, factor: f32, running: Running<'_>, joins: bool,
    ) = panel::softmax_panel;

    /// Sets to `-inf` the scores of keys that their lane does not see. Sizes are the lanes, the distance of rows, and the rows.
    pub(crate) fn hide_outside(scores: &mut [f32], size: [usize; 3], keys: LaneKeys<'_>) = panel::hide_outside;

    /// From scores s and the gradients of the weights, lane by lane: with `p = exp(factor * s - base)`,
    ///
    /// ```text
    /// scores = p * kept        d_weights = p * (d_weights * kept - delta)
    /// ```
    ///
    /// where `kept`, as large as the panel or empty for 1, is what dropout multiplies weights by. A score of `-inf` gives 0 in
    /// both, whatever the other operands hold; a base of `inf` gives 0 in its whole lane. Sizes are the lanes, the distance of
    /// rows, and the rows.
    pub(crate) fn gradient_panel(
        panels: [&mut [f32]; 2], kept: &[f32], size: [usize; 3], factor: f32, lanes: [&[f32]; 2],
    ) = panel::gradient_panel;

    /// Makes lanes of rows: element c of the i-th row, of as many as the set has lanes and `stride` apart, becomes lane i of row c of
    /// a panel, whose rows lie `width` apart.
    pub(crate) fn transpose_rows(
        rows: &[f32], stride: usize, panel: &mut [f32], width: usize, columns: usize,
    ) = panel::transpose_rows;

    /// Joins rows 2i and 2i + 1 of a panel into row i, as pairs of bf16.
    pub(crate) fn pair_rows(panel: &mut [f32], width: usize) = panel::pair_rows;
}
