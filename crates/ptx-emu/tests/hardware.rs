//! The emulator against what an H100 computed: sums of the tensor cores bit by bit, and the approximate instructions within the
//! errors that the manual allows them. `hardware/record.py` recorded the files; where they are from stands in
//! `hardware/README.md`.

mod common;

use std::ops::Range;

use common::Bench;
use ptx_emu::{Architecture, Options, TensorCore};

/// Operands of the approximate instructions that are kept of those that were recorded: the first ones.
const VALUES: usize = 4096;

fn recorded(name: &str) -> Vec<u32> {
    let path = format!("{}/tests/hardware/h100/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// As in `record.py`: the finalizer of MurmurHash3.
fn mixed(seed: u32, index: usize) -> u32 {
    let mut x = (index as u32).wrapping_add(seed << 24);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

/// As in `record.py`: floats whose exponents differ by nothing, by up to 5 or 19, or that are any bits, by the case's number.
fn floats(seed: u32, cases: Range<usize>, [exponent_bits, fraction_bits]: [u32; 2], per_case: usize) -> Vec<u32> {
    let float = |index| {
        let x = mixed(seed, index);
        let kind = index / per_case % 4;
        let spread = [1, 6, 20, 1][kind];
        let exponent = (1 << (exponent_bits - 1)) - 1 - spread / 2 + (x >> 24 & 127) % spread;
        let sign = (x >> 31) << (exponent_bits + fraction_bits);
        let any_bits = x >> (31 - exponent_bits - fraction_bits);
        if kind == 3 { any_bits } else { sign | exponent << fraction_bits | x & ((1 << fraction_bits) - 1) }
    };
    (cases.start * per_case..cases.end * per_case).map(float).collect()
}

fn pairs(values: &[u32]) -> Vec<u32> {
    values.chunks_exact(2).map(|pair| pair[0] | pair[1] << 16).collect()
}

fn bench(threads: u32, blocks: usize) -> Bench {
    let path = format!("{}/tests/hardware/probe.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let options = Options::new(Architecture::Sm90a).tensor_core(TensorCore::Aligned);
    Bench::from_text(&text).threads(threads).blocks(blocks as u32).options(options)
}

/// A NaN is a NaN: which one comes out is nowhere written down.
fn is_same(a: u32, b: u32) -> bool {
    a == b || (f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan())
}

/// Of those that were recorded, these products are kept.
fn check_products(instruction: &str, threads: usize, cases: Range<usize>) {
    for (name, format) in [("f16", [5, 10]), ("bf16", [8, 7])] {
        let kernel = format!("{instruction}_{name}");
        let bench = bench(threads as u32, cases.len());
        let a = bench.words(&pairs(&floats(2, cases.clone(), format, threads * 8)));
        let b = bench.words(&pairs(&floats(3, cases.clone(), format, 128)));
        let c = bench.words(&floats(4, cases.clone(), [8, 23], threads * 4));
        let d = bench.blank((cases.len() * threads * 16) as u64);
        bench.clean(&kernel, &[a, b, c, d]);
        let found = bench.read_words(d, cases.len() * threads * 4);
        let expected = recorded(&kernel);
        assert_eq!(expected.len(), found.len());
        let different: Vec<usize> = (0..found.len()).filter(|&i| !is_same(found[i], expected[i])).collect();
        let first = different.first().map(|&i| {
            let (found, expected) = (f32::from_bits(found[i]), f32::from_bits(expected[i]));
            format!(
                "case {}: {found:e} ({:08x}) for {expected:e} ({:08x})",
                i / threads / 4,
                found.to_bits(),
                expected.to_bits()
            )
        });
        assert!(different.is_empty(), "{kernel}: {} of {} sums differ: {first:?}", different.len(), found.len());
    }
}

#[test]
fn mma_gives_the_bits_of_the_tensor_cores() {
    check_products("mma", 32, 0..64);
}

#[test]
fn wgmma_gives_the_bits_of_the_tensor_cores() {
    // Among them finite operands with products beyond f32's range, beside infinities.
    check_products("wgmma", 128, 128..144);
}

#[test]
fn approximate_instructions_are_off_by_what_the_manual_allows() {
    let operand = |index: usize| {
        let x = mixed(1, index);
        if index % 2 == 1 { x & 0x807f_ffff | (107 + (x >> 23 & 255) % 28) << 23 } else { x }
    };
    let operands: Vec<u32> = (0..VALUES).map(operand).collect();
    let functions = ["ex2.ftz", "ex2", "lg2.ftz", "rcp.ftz", "rsqrt.ftz", "sqrt.ftz", "tanh"];
    let bench = bench(256, VALUES / 256);
    let from = bench.words(&operands);
    let to = bench.blank((functions.len() * VALUES * 4) as u64);
    bench.clean("specials", &[from, to]);
    let found = bench.read_words(to, functions.len() * VALUES);
    let expected = recorded("specials");
    assert_eq!(expected.len(), found.len());
    for (number, function) in functions.iter().enumerate() {
        for (index, operand) in operands.iter().enumerate() {
            let at = number * VALUES + index;
            let [x, found, gpu] = [*operand, found[at], expected[at]].map(f32::from_bits);
            // The emulator rounds the exact result, so the difference is the GPU's error and half a unit.
            let allowed = match *function {
                "ex2.ftz" | "ex2" => 2.0f32.powi(-22) * found.abs(),
                // PTX ISA: 2^-22 between 0.5 and 2, absolute.
                "lg2.ftz" if (0.5..=2.0).contains(&x) => 2.0f32.powi(-22),
                "lg2.ftz" | "rsqrt.ftz" | "sqrt.ftz" => 1.5 * 2.0f32.powi(-22) * found.abs(),
                "rcp.ftz" => 2.0f32.powi(-23) * found.abs(),
                "tanh" => 2.0f32.powi(-10) * found.abs(),
                _ => unreachable!("all are named"),
            };
            let is_near = is_same(found.to_bits(), gpu.to_bits()) || (found - gpu).abs() <= allowed;
            assert!(
                is_near,
                "{function}({x:e}): {found:e} ({:08x}) for the GPU's {gpu:e} ({:08x})",
                found.to_bits(),
                gpu.to_bits()
            );
        }
    }
}
