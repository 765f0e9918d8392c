//! Dropout's random numbers: the counter-based generator Philox 4x32 with ten rounds, for one lane a counter.
//!
//! Source: Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (2011), section 4.

use super::LANES;
use super::vector::{Simd, vectorized};

/// Keys that share a counter, one word each.
pub(crate) const GROUP_KEYS: usize = 4;

vectorized! {
    /// Sets `out[i]` to `factor` where the random word of key `4 * counter[0] + i` is at least `threshold`, and to 0 where it is
    /// below; counters go up by one every four keys. `out` has a multiple of 64 elements.
    pub(crate) fn keep_factors(key: [u32; 2], counter: [u32; 4], threshold: u32, factor: f32, out: &mut [f32]) = keep_factors_on;
}

#[inline(always)]
fn keep_factors_on<S: Simd>(_: S, key: [u32; 2], counter: [u32; 4], threshold: u32, factor: f32, out: &mut [f32]) {
    let (blocks, rest) = out.as_chunks_mut::<{ GROUP_KEYS * LANES }>();
    debug_assert!(rest.is_empty());
    for (block, out) in blocks.iter_mut().enumerate() {
        let first = counter[0].wrapping_add((block * LANES) as u32);
        let groups = std::array::from_fn(|lane| first.wrapping_add(lane as u32));
        let words = philox([groups, [counter[1]; LANES], [counter[2]; LANES], [counter[3]; LANES]], key);
        for lane in 0..LANES {
            for word in 0..GROUP_KEYS {
                out[GROUP_KEYS * lane + word] = if words[word][lane] >= threshold { factor } else { 0.0 };
            }
        }
    }
}

/// The four random words of each lane's counter; word by word, not lane by lane.
#[inline(always)]
fn philox<const N: usize>(mut counter: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
        let [high_0, low_0] = multiply(counter[0], 0xD251_1F53);
        let [high_1, low_1] = multiply(counter[2], 0xCD9E_8D57);
        let first = std::array::from_fn(|lane| high_1[lane] ^ counter[1][lane] ^ key[0]);
        let third = std::array::from_fn(|lane| high_0[lane] ^ counter[3][lane] ^ key[1]);
        counter = [first, low_1, third, low_0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// The high and the low words of products.
#[inline(always)]
fn multiply<const N: usize>(values: [u32; N], factor: u32) -> [[u32; N]; 2] {
    let high = std::array::from_fn(|lane| ((u64::from(values[lane]) * u64::from(factor)) >> 32) as u32);
    [high, values.map(|value| value.wrapping_mul(factor))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::InstructionSet;

    fn words(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
        philox(counter.map(|word| [word]), key).map(|[word]| word)
    }

    /// The known answers that Random123 publishes.
    #[test]
    fn words_are_those_of_random123() {
        assert_eq!(words([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(words([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let more_of_pi = [0xa409_3822, 0x299f_31d0];
        assert_eq!(words(pi, more_of_pi), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn keys_take_the_words_of_their_groups_in_order() {
        let (key, counter, threshold) = ([7, 8], [40, 3, 2, 9], 1 << 31);
        let mut factors = [f32::NAN; 128];
        keep_factors(InstructionSet::best(), key, counter, threshold, 2.0, &mut factors);
        for (index, factor) in factors.iter().enumerate() {
            let word = words([40 + index as u32 / 4, 3, 2, 9], key)[index % 4];
            assert_eq!(*factor, if word >= threshold { 2.0 } else { 0.0 });
        }
    }
}
