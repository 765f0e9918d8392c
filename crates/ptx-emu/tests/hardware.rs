//! The emulator against what an H100 computed: sums of the tensor cores, operands in shared memory and boxes of tensors bit by bit,
//! and the approximate instructions within the errors that the manual allows them. `hardware/record.py` recorded the files;
//! where they are from stands in `hardware/README.md`.

#[path = "hardware/boxes.rs"]
mod boxes;
mod common;
#[path = "hardware/majors.rs"]
mod majors;

use std::ops::Range;

use common::Bench;
use ptx_emu::{Architecture, Options, TensorCore};

/// Operands of the approximate instructions.
const VALUES: usize = 4096;

/// Operands along the fractions of a function.
const FRACTIONS: usize = 1 << 14;

fn recorded(name: &str) -> Vec<u32> {
    let path = format!("{}/tests/hardware/h100/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Holds words to a file, bit by bit.
fn check_recorded(name: &str, found: &[u32]) {
    let expected = recorded(name);
    assert_eq!(expected.len(), found.len(), "{name}");
    let first = (0..found.len()).find(|&at| found[at] != expected[at]);
    let said = first.map(|at| format!("word {at} is {:08x} instead of {:08x}", found[at], expected[at]));
    assert_eq!(said, None, "{name}");
}

/// As in `operands.py`: the finalizer of MurmurHash3.
fn mixed(seed: u32, index: usize) -> u32 {
    let mut x = (index as u32).wrapping_add(seed << 24);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

/// As in `operands.py`: floats whose exponents differ by nothing, by up to 5 or 19, or that are any bits, by the case's number.
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

fn bench(probe: &str, threads: u32, blocks: usize) -> Bench {
    let path = format!("{}/tests/hardware/{probe}.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let options = Options::new(Architecture::Sm90a).tensor_core(TensorCore::Aligned);
    Bench::from_text(&text).threads(threads).blocks(blocks as u32).options(options)
}

/// What every GPU of these kernels runs, and what Hopper alone does.
const BASELINE: &str = "probe";
const HOPPER: &str = "probe_sm90a";

/// Of those that were recorded, these products are kept.
fn check_products(probe: &str, instruction: &str, threads: usize, cases: Range<usize>) {
    for (name, format) in [("f16", [5, 10]), ("bf16", [8, 7])] {
        let kernel = format!("{instruction}_{name}");
        let bench = bench(probe, threads as u32, cases.len());
        let a = bench.words(&pairs(&floats(2, cases.clone(), format, threads * 8)));
        let b = bench.words(&pairs(&floats(3, cases.clone(), format, 128)));
        let c = bench.words(&floats(4, cases.clone(), [8, 23], threads * 4));
        let d = bench.blank((cases.len() * threads * 16) as u64);
        bench.clean(&kernel, &[a, b, c, d]);
        let found = bench.read_words(d, cases.len() * threads * 4);
        let expected = recorded(&kernel);
        assert_eq!(expected.len(), found.len());
        let different: Vec<usize> = (0..found.len()).filter(|&i| found[i] != expected[i]).collect();
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
    check_products(BASELINE, "mma", 32, 0..64);
}

#[test]
fn wgmma_gives_the_bits_of_the_tensor_cores() {
    // Among them finite operands with products beyond f32's range, beside infinities.
    check_products(HOPPER, "wgmma", 128, 128..144);
}

const FUNCTIONS: [&str; 7] = ["ex2.ftz", "ex2", "lg2.ftz", "rcp.ftz", "rsqrt.ftz", "sqrt.ftz", "tanh"];

/// The emulator's results of all functions, one function after the other.
fn specials(operands: &[u32]) -> Vec<u32> {
    let bench = bench(BASELINE, 256, operands.len() / 256);
    let from = bench.words(operands);
    let to = bench.blank((FUNCTIONS.len() * operands.len() * 4) as u64);
    bench.clean("specials", &[from, to]);
    bench.read_words(to, FUNCTIONS.len() * operands.len())
}

/// The emulator rounds the exact result, so the difference is the GPU's error and half a unit.
/// Infinities and NaN are the same bits.
fn assert_near(function: &str, operand: u32, found: u32, gpu: u32) {
    let [x, found, gpu] = [operand, found, gpu].map(f32::from_bits);
    let allowed = match function {
        "ex2.ftz" | "ex2" => 2.0f32.powi(-22) * found.abs(),
        // PTX ISA: 2^-22 between 0.5 and 2, absolute.
        "lg2.ftz" if (0.5..=2.0).contains(&x) => 2.0f32.powi(-22),
        "lg2.ftz" | "rsqrt.ftz" | "sqrt.ftz" => 1.5 * 2.0f32.powi(-22) * found.abs(),
        "rcp.ftz" => 2.0f32.powi(-23) * found.abs(),
        "tanh" => 2.0f32.powi(-10) * found.abs(),
        _ => unreachable!("all are named"),
    };
    let is_near = found.to_bits() == gpu.to_bits() || (found - gpu).abs() <= allowed;
    let [found_bits, gpu_bits] = [found, gpu].map(f32::to_bits);
    assert!(is_near, "{function}({x:e}): {found:e} ({found_bits:08x}) for the GPU's {gpu:e} ({gpu_bits:08x})");
}

#[test]
fn approximate_instructions_are_off_by_what_the_manual_allows() {
    let operand = |index: usize| {
        let x = mixed(1, index);
        if index % 2 == 1 { x & 0x807f_ffff | (107 + (x >> 23 & 255) % 28) << 23 } else { x }
    };
    let operands: Vec<u32> = (0..VALUES).map(operand).collect();
    let (found, expected) = (specials(&operands), recorded("specials"));
    assert_eq!(expected.len(), found.len());
    for (number, function) in FUNCTIONS.iter().enumerate() {
        for (index, operand) in operands.iter().enumerate() {
            let at = number * VALUES + index;
            assert_near(function, *operand, found[at], expected[at]);
        }
    }
}

/// Along all fractions of the functions of softmax and the norms: ex2 of negative numbers, rcp, and rsqrt in both of its periods.
/// The emulator's results are those of f64, rounded.
#[test]
fn fractions_are_rounded_and_near_what_a_gpu_makes_of_them() {
    let exact = |function, x: f64| match function {
        0 => x.exp2(),
        3 => 1.0 / x,
        _ => 1.0 / x.sqrt(),
    };
    let expected = recorded("mantissas");
    let functions = [(0, 0xbf80_0000), (3, 0x3f80_0000), (4, 0x3f80_0000), (4, 0x4000_0000)];
    assert_eq!(expected.len(), functions.len() * FRACTIONS);
    for (part, (function, first)) in functions.into_iter().enumerate() {
        let step = (1 << 23) / FRACTIONS as u32;
        let operands: Vec<u32> =
            (0..FRACTIONS).map(|index| first + index as u32 * step + mixed(8, index) % step).collect();
        let found = specials(&operands);
        let found = &found[function * FRACTIONS..(function + 1) * FRACTIONS];
        for (index, operand) in operands.iter().enumerate() {
            let rounded = exact(function, f64::from(f32::from_bits(*operand))) as f32;
            assert_eq!(found[index], rounded.to_bits(), "{}({operand:08x})", FUNCTIONS[function]);
            assert_near(FUNCTIONS[function], *operand, found[index], expected[part * FRACTIONS + index]);
        }
    }
}
