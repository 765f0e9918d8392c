//! Kernels as nvcc compiled them: right under every schedule, and caught when a line that synchronises is taken out.

mod common;

use common::{Bench, ptx};
use ptx_emu::{Architecture, Completion, Options, Schedule, SharedAccess, TensorCore};

fn every_schedule() -> Vec<Options> {
    let mut all = Vec::new();
    for schedule in [Schedule::InOrder, Schedule::Reverse, Schedule::Random, Schedule::Diverged] {
        for completion in [Completion::Latest, Completion::Earliest, Completion::Random] {
            all.push(Options::new(Architecture::Sm80).schedule(schedule).completion(completion).seed(5));
        }
    }
    all
}

const DEPTH: usize = 96;
const ROWS: usize = 128;

/// Small whole numbers as f16, whose products and sums are exact.
fn element(k: usize) -> (u16, f32) {
    const HALVES: [(u16, f32); 5] = [(0xc000, -2.0), (0xbc00, -1.0), (0, 0.0), (0x3c00, 1.0), (0x4000, 2.0)];
    HALVES[(k * 7 + k / 11) % 5]
}

fn matrix(bench: &Bench, elements: usize, from: usize) -> (u64, Vec<f32>) {
    let halves: Vec<(u16, f32)> = (from..from + elements).map(element).collect();
    let words: Vec<u32> = halves.chunks(2).map(|pair| u32::from(pair[0].0) | u32::from(pair[1].0) << 16).collect();
    (bench.words(&words), halves.iter().map(|(_, value)| *value).collect())
}

/// The kernel's report and the largest difference to the exact product.
fn matmul(text: &str, options: Options) -> (ptx_emu::Report, f32) {
    let mut bench = Bench::from_text(text).threads(128).blocks((ROWS / 64) as u32).options(options);
    // The last parameter has four bytes.
    bench.last_parameter_bytes = 4;
    let (a, a_values) = matrix(&bench, ROWS * DEPTH, 0);
    let (b, b_values) = matrix(&bench, DEPTH * 64, 1000);
    let c = bench.blank((ROWS * 64 * 4) as u64);
    let report = bench.run("matmul", &[a, b, c, DEPTH as u64]);
    let found = bench.read_words(c, ROWS * 64);
    let mut worst = 0f32;
    for row in 0..ROWS {
        for column in 0..64 {
            let exact: f32 = (0..DEPTH).map(|k| a_values[row * DEPTH + k] * b_values[k * 64 + column]).sum();
            let difference = (f32::from_bits(found[row * 64 + column]) - exact).abs();
            worst = worst.max(if difference.is_nan() { f32::INFINITY } else { difference });
        }
    }
    (report, worst)
}

#[test]
fn matmul_is_exact_and_clean() {
    for options in every_schedule() {
        let (report, worst) = matmul(&ptx("compiled/matmul.ptx"), options.clone());
        assert!(report.hazards.is_empty(), "{options:?}: {}", report.hazards[0]);
        assert_eq!(worst, 0.0, "{options:?}");
    }
    let (report, worst) =
        matmul(&ptx("compiled/matmul.ptx"), Options::new(Architecture::Sm80).tensor_core(TensorCore::Aligned));
    assert_eq!((report.hazards.len(), worst), (0, 0.0));
    let counters = report.counters;
    // 2 blocks, 4 warps, 6 steps of 16, 8 products.
    assert_eq!((counters.tensor_instructions, counters.tensor_flops), (384, 2 * 64 * 64 * 96 * 2));
    let matrices = counters.shared[&SharedAccess::LoadMatrix];
    assert_eq!((matrices.instructions, matrices.actual, matrices.ideal), (240, 960, 960), "the swizzle works");
}

#[test]
fn every_synchronisation_of_matmul_is_needed() {
    let text = ptx("compiled/matmul.ptx");
    let lines: Vec<&str> = text.lines().collect();
    let synchronises =
        |line: &str| ["bar.sync", "cp.async.wait_group", "cp.async.commit_group"].iter().any(|s| line.contains(s));
    let places: Vec<usize> = (0..lines.len()).filter(|at| synchronises(lines[*at])).collect();
    assert_eq!(places.len(), 6);
    for place in places {
        let mut mutant = lines.clone();
        mutant[place] = "";
        for options in every_schedule() {
            let (report, _) = matmul(&mutant.join("\n"), options.clone());
            let caught = report.hazards.iter().any(|h| {
                matches!(h.kind.name(), "shared memory race" | "asynchronous copy in flight")
                    && h.file() == Some("matmul.cu")
            });
            assert!(caught, "line {place} `{}` under {options:?}", lines[place]);
        }
    }
}

#[test]
fn a_lost_swizzle_shows_in_the_wavefronts() {
    // Without the exclusive or, rows of A collide two by two and rows of B all eight.
    let text = ptx("compiled/matmul.ptx").replace("xor.b32 ", "or.b32 ");
    let (report, _) = matmul(&text, Options::new(Architecture::Sm80));
    let matrices = report.counters.shared[&SharedAccess::LoadMatrix];
    assert!(matrices.actual > matrices.ideal, "{matrices:?}");
}

const LENGTH: usize = 301;

fn softmax(text: &str, options: Options) -> (ptx_emu::Report, f64, f32) {
    let rows = 5;
    let mut bench = Bench::from_text(text).threads(128).blocks(rows as u32).options(options);
    bench.last_parameter_bytes = 4;
    let value = |k: usize| ((k * 37 % 101) as f32 - 50.0) / 8.0;
    let x = bench.words(&(0..rows * LENGTH).map(|k| value(k).to_bits()).collect::<Vec<u32>>());
    let (y, sum) = (bench.blank((rows * LENGTH * 4) as u64), bench.words(&[0]));
    let report = bench.run("softmax", &[x, y, sum, LENGTH as u64]);
    let found = bench.read_words(y, rows * LENGTH);
    let mut worst = 0f64;
    for row in 0..rows {
        let exponentials: Vec<f64> = (0..LENGTH).map(|i| f64::from(value(row * LENGTH + i)).exp()).collect();
        let total: f64 = exponentials.iter().sum();
        for (i, e) in exponentials.iter().enumerate() {
            let relative = (f64::from(f32::from_bits(found[row * LENGTH + i])) * total / e - 1.0).abs();
            worst = worst.max(if relative.is_nan() { f64::INFINITY } else { relative });
        }
    }
    (report, worst, f32::from_bits(bench.read_words(sum, 1)[0]))
}

#[test]
fn softmax_is_right_and_clean_and_its_atomic_sum_reproducible() {
    let (_, _, first_sum) = softmax(&ptx("compiled/softmax.ptx"), Options::new(Architecture::Sm80));
    let exact: f64 = (0..5 * LENGTH).map(|k| ((k * 37 % 101) as f64 - 50.0) / 8.0).sum();
    assert!((f64::from(first_sum) - exact).abs() < 1e-3);
    for options in every_schedule() {
        let (report, worst, sum) = softmax(&ptx("compiled/softmax.ptx"), options.clone().threads(2));
        assert!(report.hazards.is_empty(), "{options:?}: {}", report.hazards[0]);
        assert!(worst < 2e-6, "{options:?}: {worst:e}");
        assert_eq!(sum, first_sum);
    }
}

#[test]
fn every_barrier_of_softmax_but_the_first_is_needed() {
    let text = ptx("compiled/softmax.ptx");
    let lines: Vec<&str> = text.lines().collect();
    let places: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains("bar.sync")).collect();
    assert_eq!(places.len(), 6);
    for (number, place) in places.into_iter().enumerate() {
        let mut mutant = lines.clone();
        mutant[place] = "";
        let (report, ..) = softmax(&mutant.join("\n"), Options::new(Architecture::Sm80));
        let races = report.hazards.iter().filter(|h| h.kind.name() == "shared memory race").count();
        // Nobody has used the shared words before the first barrier.
        assert_eq!(races > 0, number > 0, "barrier {number}");
    }
}
