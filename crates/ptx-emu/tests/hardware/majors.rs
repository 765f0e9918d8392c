//! Where the operands of wgmma lie in shared memory: rows or depths next to each other, in every swizzle. The operands are small
//! integers, whose product is the same however it is summed up.

use super::{HOPPER, bench, check_recorded, mixed};

const DEPTH: usize = 16;
const SHARED_BYTES: usize = 16384;

/// How an operand of rows (or columns) `r` and depth `k` lies in shared memory. Elements have two bytes.
struct Layout {
    /// 0, 32, 64 or 128 bytes.
    swizzle: usize,
    /// Elements next to each other have the same `k`.
    mn_major: bool,
    rows: usize,
    start: usize,
}

impl Layout {
    /// The distances that the descriptor calls leading and stride.
    fn steps(&self) -> [usize; 2] {
        match (self.swizzle, self.mn_major) {
            (0, false) => [128, 256],
            (0, true) => [16 * self.rows, 128],
            (swizzle, false) => [16, 8 * swizzle],
            (swizzle, true) => [16 * swizzle, 8 * swizzle],
        }
    }

    /// The byte offset of an element.
    fn place(&self, r: usize, k: usize) -> usize {
        let [leading, stride] = self.steps();
        let (line, along) = if self.mn_major { (k, r) } else { (r, k) };
        let (chunk, within) = (along / 8, along % 8 * 2);
        if self.swizzle == 0 {
            let (of_line, of_chunk) = if self.mn_major { (leading, stride) } else { (stride, leading) };
            return self.start + line % 8 * 16 + line / 8 * of_line + chunk * of_chunk + within;
        }
        // A line of the swizzle's width holds its chunks in an order that the 128-byte line it lies in gives.
        let (width, lines) = (self.swizzle / 16, 128 / self.swizzle);
        let order = line % 8 / lines;
        let column = (chunk % width) ^ order;
        self.start + line % 8 * self.swizzle + line / 8 * stride + chunk / width * leading + column * 16 + within
    }

    fn descriptor(&self) -> u64 {
        let [leading, stride] = self.steps().map(|step| step as u64 >> 4);
        let mode = match self.swizzle {
            0 => 0,
            128 => 1,
            64 => 2,
            _ => 3,
        };
        self.start as u64 >> 4 | leading << 16 | stride << 32 | mode << 62
    }
}

/// Integers from -8 to 8.
fn integers(seed: u32, number: usize, rows: usize) -> Vec<i32> {
    let count = rows * DEPTH;
    (number * count..(number + 1) * count).map(|at| (mixed(seed, at) % 17) as i32 - 8).collect()
}

/// The bits of a small integer.
fn encoded(value: i32, is_bf16: bool) -> u16 {
    let bits = (value as f32).to_bits();
    match value {
        0 => 0,
        _ if is_bf16 => (bits >> 16) as u16,
        _ => (bits >> 16 & 0x8000 | ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff) as u16,
    }
}

fn check(dtype: &str, numbers: std::ops::Range<usize>) {
    let (mut images, mut cases, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for number in numbers.clone() {
        let (swizzle, majors) = ([0, 32, 64, 128][number / 4], number % 4);
        let a = Layout { swizzle, mn_major: majors & 1 != 0, rows: 64, start: 0 };
        let b = Layout { swizzle, mn_major: majors & 2 != 0, rows: 32, start: 8192 };
        let (a_values, b_values) = (integers(5, number, 64), integers(6, number, 32));
        // What is read beside the operands shows.
        let mut image = vec![0x7e7e_u16; SHARED_BYTES / 2];
        for (layout, values) in [(&a, &a_values), (&b, &b_values)] {
            for (at, value) in values.iter().enumerate() {
                image[layout.place(at / DEPTH, at % DEPTH) / 2] = encoded(*value, dtype == "bf16");
            }
        }
        images.extend(image.chunks_exact(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16));
        for long in [a.descriptor(), b.descriptor(), majors as u64] {
            cases.extend([long as u32, (long >> 32) as u32]);
        }
        for (thread, i) in (0..128).flat_map(|thread| (0..16).map(move |i| (thread, i))) {
            let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
            let column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
            let sum: i32 = (0..DEPTH).map(|k| a_values[row * DEPTH + k] * b_values[column * DEPTH + k]).sum();
            expected.push((sum as f32).to_bits());
        }
    }
    let bench = bench(HOPPER, 128, numbers.len());
    let (images, cases) = (bench.words(&images), bench.words(&cases));
    let d = bench.blank((numbers.len() * 128 * 16 * 4) as u64);
    let kernel = format!("majors_{dtype}");
    bench.clean(&kernel, &[images, cases, d]);
    let found = bench.read_words(d, numbers.len() * 128 * 16);
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let number = numbers.start + at / (128 * 16);
        assert_eq!(found, expected, "{dtype}: case {number}, thread {}, sum {}", at / 16 % 128, at % 16);
    }
    check_recorded(&kernel, &found);
}

#[test]
fn f16_operands_of_wgmma_lie_where_their_descriptors_say() {
    check("f16", 0..16);
}

#[test]
fn bf16_operands_of_wgmma_lie_where_their_descriptors_say() {
    // The widest swizzle, which is in use.
    check("bf16", 12..16);
}
