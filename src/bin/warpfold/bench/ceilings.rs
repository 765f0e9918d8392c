//! What the machine can do at most, as measured in the same run: how fast it copies, and how fast it multiplies matrices. A
//! problem's ceiling is the lower of the two that it meets (the roofline).

use std::fmt;
use std::fs;

use anyhow::Result;
use rayon::prelude::*;
use warpfold::DType;

use super::clock::host;
use super::times::Measured;

/// What a rate counts, a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Gigabytes,
    Gigaflops,
    Teraflops,
}

impl Unit {
    /// Bytes or operations a second.
    pub fn factor(self) -> f64 {
        match self {
            Unit::Gigabytes | Unit::Gigaflops => 1e9,
            Unit::Teraflops => 1e12,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Gigabytes => "GB/s",
            Unit::Gigaflops => "GFLOP/s",
            Unit::Teraflops => "TFLOP/s",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory to memory.
    Copy,
    /// Within the last-level cache.
    CopyInCache,
    /// Products of such matrices.
    Matrix(DType),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Copy => "copy",
            Kind::CopyInCache => "copy in cache",
            Kind::Matrix(_) => "matrix",
        })
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Ceiling {
    pub kind: Kind,
    /// What was copied or multiplied.
    pub problem: String,
    pub measured: Measured,
    /// Bytes read and written, or operations, of one call.
    pub work: f64,
    pub unit: Unit,
    /// By what.
    pub note: String,
}

impl Ceiling {
    /// Bytes or operations a second: of the best tenth, as others who use the machine only take away from what it can do.
    pub fn rate(&self) -> f64 {
        self.work / self.measured.times.p10_ms * 1e3
    }
}

/// All of a device.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    pub all: Vec<Ceiling>,
    /// Problems of so many bytes or less live in the cache.
    pub cache_bytes: usize,
    /// Whether bf16 is multiplied faster than f32, at a rate that is not among the ceilings.
    pub has_unmeasured_bf16: bool,
}

/// What a problem does, and for which it has a ceiling.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub dtype: DType,
    pub flops: Option<u64>,
    pub bytes: usize,
    pub unit: Unit,
}

impl Work {
    /// Operations a byte.
    pub fn intensity(&self) -> Option<f64> {
        self.flops.map(|flops| flops as f64 / self.bytes as f64)
    }

    /// What the rate counts.
    pub fn amount(&self) -> f64 {
        match self.unit {
            Unit::Gigabytes => self.bytes as f64,
            _ => self.flops.unwrap_or(0) as f64,
        }
    }
}

impl Ceilings {
    /// The rate that this work could have at most, bytes or operations a second.
    pub fn of(&self, work: &Work) -> Option<f64> {
        let rate = |kind| self.all.iter().find(|ceiling| ceiling.kind == kind).map(Ceiling::rate);
        let in_cache = if work.bytes <= self.cache_bytes { rate(Kind::CopyInCache) } else { None };
        let copy = in_cache.or(rate(Kind::Copy))?;
        let Some(intensity) = work.intensity() else { return Some(copy) };
        // A device that has no products of this type multiplies it as f32.
        let matrix = match self.has_unmeasured_bf16 && work.dtype == DType::BF16 {
            true => None,
            false => rate(Kind::Matrix(work.dtype)).or(rate(Kind::Matrix(DType::F32))),
        };
        match work.unit {
            Unit::Gigabytes => Some(matrix.map_or(copy, |matrix| copy.min(matrix / intensity))),
            _ => matrix.map(|matrix| matrix.min(intensity * copy)),
        }
    }
}

/// Of the processor, on all of rayon's threads. They are measured for longer than a problem, as all fractions are of them.
pub fn of_cpu(budget_ms: f64) -> Result<Ceilings> {
    let budget_ms = 4.0 * budget_ms;
    let cache = last_level_cache_bytes().unwrap_or(32 << 20);
    let large = (8 * cache).clamp(256 << 20, 512 << 20);
    let mut all = vec![copy(Kind::Copy, large, budget_ms)?, copy(Kind::CopyInCache, 4 << 20, budget_ms)?];
    all.push(matrix(budget_ms)?);
    Ok(Ceilings { all, cache_bytes: cache / 2, has_unmeasured_bf16: multiplies_bf16() })
}

/// Of the first processor, from Linux.
fn last_level_cache_bytes() -> Option<usize> {
    let of_index = |index: usize| {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..8).filter_map(of_index).max().map(|kilobytes| kilobytes << 10)
}

fn copy(kind: Kind, bytes: usize, budget_ms: f64) -> Result<Ceiling> {
    let threads = rayon::current_num_threads();
    let source = vec![1u8; bytes];
    let mut target = vec![0u8; bytes];
    let part = bytes.div_ceil(threads);
    let mut call = || {
        let parts = target.par_chunks_mut(part).zip(source.par_chunks(part));
        parts.for_each(|(target, source)| target.copy_from_slice(source));
        std::hint::black_box(&mut target);
        Ok(())
    };
    let measured = host(&mut call, budget_ms)?;
    Ok(Ceiling {
        kind,
        problem: format!("2 x {} MB", bytes >> 20),
        measured,
        work: 2.0 * bytes as f64,
        unit: Unit::Gigabytes,
        note: format!("copy_from_slice on {threads} threads"),
    })
}

/// Multiplications with additions of f32 in registers, on every thread: what no product of matrices exceeds.
fn matrix(budget_ms: f64) -> Result<Ceiling> {
    /// Of one call: some 0.1 ms.
    const STEPS: usize = 50_000;
    let threads = rayon::current_num_threads();
    let has_avx512 = has_avx512();
    let (multiply_add, lanes): (fn(&mut Sums, usize), _) =
        if has_avx512 { (multiply_add_16, 16) } else { (multiply_add_8, 8) };
    let mut sums = vec![[1f32; CHAINS * LANES_MAX]; threads];
    let mut call = || {
        sums.par_iter_mut().with_max_len(1).for_each(|sums| multiply_add(sums, STEPS));
        Ok(())
    };
    let measured = host(&mut call, budget_ms)?;
    std::hint::black_box(&mut sums);
    Ok(Ceiling {
        kind: Kind::Matrix(DType::F32),
        problem: "multiply-add in registers".to_string(),
        measured,
        work: (2 * threads * CHAINS * lanes * STEPS) as f64,
        unit: Unit::Gigaflops,
        note: format!("{lanes} lanes of f32 on {threads} threads"),
    })
}

/// Sums that do not wait for each other: two instructions a cycle with a latency of 4 to 5 need 10 vectors in flight, which 16 registers
/// hold beside the factors.
const CHAINS: usize = 12;
const LANES_MAX: usize = 16;
type Sums = [f32; CHAINS * LANES_MAX];

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[multiversion::multiversion(targets("x86_64+avx512f"))]
fn multiply_add_16(sums: &mut Sums, steps: usize) {
    multiply_add::<{ CHAINS * 16 }>(sums, steps);
}

#[multiversion::multiversion(targets("x86_64+avx2+fma"))]
fn multiply_add_8(sums: &mut Sums, steps: usize) {
    multiply_add::<{ CHAINS * 8 }>(sums, steps);
}

#[inline(always)]
fn multiply_add<const COUNT: usize>(sums: &mut Sums, steps: usize) {
    // One flat array: of arrays in an array, the compiler makes vectors across chains, which it keeps in memory.
    let mut held: [f32; COUNT] = std::array::from_fn(|index| sums[index]);
    // Sums stay between 0 and 1000: no step is slow for its numbers.
    let (factor, addend) = (std::hint::black_box(0.999f32), std::hint::black_box(0.5f32));
    for _ in 0..steps {
        for sum in &mut held {
            *sum = sum.mul_add(factor, addend);
        }
    }
    sums[..COUNT].copy_from_slice(&held);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::times::Times;

    fn ceiling(kind: Kind, unit: Unit, rate: f64) -> Ceiling {
        let times = Times { median_ms: 1e3, p10_ms: 1e3, p90_ms: 1e3 };
        let measured = Measured { times, calls: 1, is_graph: false };
        Ceiling { kind, problem: String::new(), measured, work: rate * unit.factor(), unit, note: String::new() }
    }

    fn machine() -> Ceilings {
        let all = vec![
            ceiling(Kind::Copy, Unit::Gigabytes, 20.0),
            ceiling(Kind::CopyInCache, Unit::Gigabytes, 100.0),
            ceiling(Kind::Matrix(DType::F32), Unit::Gigaflops, 200.0),
        ];
        Ceilings { all, cache_bytes: 1000, has_unmeasured_bf16: false }
    }

    #[test]
    fn the_lower_ceiling_counts_in_the_unit_of_the_rate() {
        let machine = machine();
        let of = |flops, bytes, unit| {
            let rate = machine.of(&Work { dtype: DType::BF16, flops, bytes, unit });
            rate.map(|rate| (rate / unit.factor()).round())
        };
        // Rows, by their size.
        assert_eq!(of(None, 2000, Unit::Gigabytes), Some(20.0));
        assert_eq!(of(None, 1000, Unit::Gigabytes), Some(100.0));
        // 100 operations a byte are bound by the products, 2 by memory.
        assert_eq!(of(Some(200_000), 2000, Unit::Gigaflops), Some(200.0));
        assert_eq!(of(Some(4000), 2000, Unit::Gigaflops), Some(40.0));
        assert_eq!(of(Some(4000), 2000, Unit::Gigabytes), Some(20.0));
        // Whatever the unit, the fraction is the same.
        assert_eq!(of(Some(200_000), 2000, Unit::Gigabytes), Some(2.0));
    }

    #[test]
    fn without_a_matrix_rate_only_memory_bounds() {
        let mut machine = machine();
        let bf16 = Work { dtype: DType::BF16, flops: Some(4000), bytes: 2000, unit: Unit::Gigaflops };
        assert!(machine.of(&bf16).is_some());
        machine.has_unmeasured_bf16 = true;
        assert_eq!(machine.of(&bf16), None);
        machine.all.pop();
        let unit = Unit::Gigaflops;
        assert_eq!(machine.of(&Work { dtype: DType::F32, flops: Some(4000), bytes: 2000, unit }), None);
        let unit = Unit::Gigabytes;
        assert_eq!(machine.of(&Work { dtype: DType::F32, flops: Some(4000), bytes: 2000, unit }), Some(20e9));
    }

    #[test]
    fn a_sum_is_what_its_steps_make_of_it() {
        for (multiply_add, lanes) in [(multiply_add_8 as fn(&mut Sums, usize), 8), (multiply_add_16, 16)] {
            let mut sums = [1f32; CHAINS * LANES_MAX];
            multiply_add(&mut sums, 2);
            let expected = (1.0 * 0.999 + 0.5) * 0.999 + 0.5;
            assert!(sums[..CHAINS * lanes].iter().all(|sum| (sum - expected).abs() < 1e-6), "{lanes} lanes: {sums:?}");
            assert!(sums[CHAINS * lanes..].iter().all(|sum| *sum == 1.0), "{lanes} lanes: {sums:?}");
        }
    }

    #[test]
    fn a_processor_has_three_ceilings() {
        let found = of_cpu(2.0).expect("nothing fails");
        let kinds: Vec<Kind> = found.all.iter().map(|ceiling| ceiling.kind).collect();
        assert_eq!(kinds, [Kind::Copy, Kind::CopyInCache, Kind::Matrix(DType::F32)]);
        assert!(found.all.iter().all(|ceiling| ceiling.rate() > 1e8), "{found:?}");
    }
}
