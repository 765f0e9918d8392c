//! Scratch memory of a thread, cut into areas.

use crate::cpu::simd;

/// Elements in front of the scratch areas, so that they can start on a cache line.
const ALIGNMENT_SLACK: usize = simd::LANES;

/// What [`split`] needs.
pub(super) fn scratch_total<const N: usize>(sizes: [usize; N]) -> usize {
    ALIGNMENT_SLACK + sizes.iter().map(|size| size.next_multiple_of(simd::LANES)).sum::<usize>()
}

/// Cuts scratch memory into areas that each start on a cache line.
pub(super) fn split<const N: usize>(slot: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    let skipped = slot.as_ptr().align_offset(simd::LANES * size_of::<f32>()).min(ALIGNMENT_SLACK);
    let mut rest = &mut slot[skipped..];
    sizes.map(|size| {
        let (area, behind) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(simd::LANES));
        rest = behind;
        &mut area[..size]
    })
}
