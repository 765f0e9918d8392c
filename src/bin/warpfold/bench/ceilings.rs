//! What the machine can do at most, as measured in the same run: how fast it copies, and how fast it multiplies matrices. A
//! problem's ceiling is the lower of the two that it meets (the roofline).

use std::fmt;
use std::fs;

use anyhow::Result;
use rayon::prelude::*;
use warpfold::DType;

use super::clock::host;
use super::times::Measured;

/// The unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    GigabytesPerSecond,
    GigaflopsPerSecond,
    TeraflopsPerSecond,
}

impl Unit {
    /// Bytes or operations a second.
    pub fn factor(self) -> f64 {
        match self {
            Unit::GigabytesPerSecond | Unit::GigaflopsPerSecond => 1e9,
            Unit::TeraflopsPerSecond => 1e12,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::GigabytesPerSecond => "GB/s",
            Unit::GigaflopsPerSecond => "GFLOP/s",
            Unit::TeraflopsPerSecond => "TFLOP/s",
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
    /// Bytes or operations a second.
    pub fn rate(&self) -> f64 {
        self.work / self.measured.times.median_ms * 1e3
    }
}

/// All of a device.
#[derive(Clone, Debug, Default)]
pub struct Ceilings {
    pub all: Vec<Ceiling>,
    /// Problems of so many bytes or less live in the cache.
    pub cache_bytes: usize,
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
            Unit::GigabytesPerSecond => self.bytes as f64,
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
        let matrix = rate(Kind::Matrix(work.dtype)).or(rate(Kind::Matrix(DType::F32)));
        match work.unit {
            Unit::GigabytesPerSecond => Some(matrix.map_or(copy, |matrix| copy.min(matrix / intensity))),
            _ => matrix.map(|matrix| matrix.min(intensity * copy)),
        }
    }
}

/// Of the processor, on all of rayon's threads.
pub fn of_cpu(budget_ms: f64) -> Result<Ceilings> {
    let cache = last_level_cache_bytes().unwrap_or(32 << 20);
    let large = (8 * cache).clamp(256 << 20, 512 << 20);
    let mut all = vec![copy(Kind::Copy, large, budget_ms)?, copy(Kind::CopyInCache, 4 << 20, budget_ms)?];
    all.push(matrix(budget_ms)?);
    Ok(Ceilings { all, cache_bytes: cache / 2 })
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
        unit: Unit::GigabytesPerSecond,
        note: format!("copy_from_slice on {threads} threads"),
    })
}

/// The best of some shapes, a product of its own on every thread.
fn matrix(budget_ms: f64) -> Result<Ceiling> {
    const SHAPES: [[usize; 3]; 4] = [[256, 256, 256], [512, 512, 512], [1024, 1024, 256], [1024, 1024, 1024]];
    let threads = rayon::current_num_threads();
    let mut best: Option<Ceiling> = None;
    for [m, k, n] in SHAPES {
        let mut products: Vec<_> =
            (0..threads).map(|_| (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0f32; m * n])).collect();
        let mut call = || {
            products.par_iter_mut().for_each(|(a, b, c)| multiply([m, k, n], a, b, c));
            Ok(())
        };
        let measured = host(&mut call, budget_ms / SHAPES.len() as f64)?;
        std::hint::black_box(&mut products);
        let found = Ceiling {
            kind: Kind::Matrix(DType::F32),
            problem: format!("{m}x{k} by {k}x{n}"),
            measured,
            work: (2 * threads * m * k * n) as f64,
            unit: Unit::GigaflopsPerSecond,
            note: format!(
                "matrixmultiply's sgemm, one product on each of {threads} threads: a library's rate, no limit"
            ),
        };
        if best.as_ref().is_none_or(|best| found.rate() > best.rate()) {
            best = Some(found);
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("there is a shape"))
}

/// `c = a b`, row by row, `a [m, k]`, `b [k, n]`.
fn multiply([m, k, n]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "the shapes are those of the slices");
    let strides = [k, n].map(|stride| stride as isize);
    // SAFETY: the slices hold the matrices of these shapes and strides, and c overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            strides[0],
            1,
            b.as_ptr(),
            strides[1],
            1,
            0.0,
            c.as_mut_ptr(),
            strides[1],
            1,
        );
    }
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
            ceiling(Kind::Copy, Unit::GigabytesPerSecond, 20.0),
            ceiling(Kind::CopyInCache, Unit::GigabytesPerSecond, 100.0),
            ceiling(Kind::Matrix(DType::F32), Unit::GigaflopsPerSecond, 200.0),
        ];
        Ceilings { all, cache_bytes: 1000 }
    }

    #[test]
    fn the_lower_ceiling_counts_in_the_unit_of_the_rate() {
        let machine = machine();
        let of = |flops, bytes, unit| {
            let rate = machine.of(&Work { dtype: DType::BF16, flops, bytes, unit });
            rate.map(|rate| (rate / unit.factor()).round())
        };
        // Rows, by their size.
        assert_eq!(of(None, 2000, Unit::GigabytesPerSecond), Some(20.0));
        assert_eq!(of(None, 1000, Unit::GigabytesPerSecond), Some(100.0));
        // 100 operations a byte are bound by the products, 2 by memory.
        assert_eq!(of(Some(200_000), 2000, Unit::GigaflopsPerSecond), Some(200.0));
        assert_eq!(of(Some(4000), 2000, Unit::GigaflopsPerSecond), Some(40.0));
        assert_eq!(of(Some(4000), 2000, Unit::GigabytesPerSecond), Some(20.0));
        // Whatever the unit, the fraction is the same.
        assert_eq!(of(Some(200_000), 2000, Unit::GigabytesPerSecond), Some(2.0));
    }

    #[test]
    fn without_a_matrix_rate_only_memory_bounds() {
        let mut machine = machine();
        machine.all.pop();
        let unit = Unit::GigaflopsPerSecond;
        assert_eq!(machine.of(&Work { dtype: DType::F32, flops: Some(4000), bytes: 2000, unit }), None);
        let unit = Unit::GigabytesPerSecond;
        assert_eq!(machine.of(&Work { dtype: DType::F32, flops: Some(4000), bytes: 2000, unit }), Some(20e9));
    }

    #[test]
    fn the_product_is_one() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let mut c = [9.0; 4];
        multiply([2, 3, 2], &a, &b, &mut c);
        assert_eq!(c, [4.0, 5.0, 10.0, 11.0]);
    }

    #[test]
    fn a_processor_has_three_ceilings() {
        let found = of_cpu(2.0).expect("nothing fails");
        let kinds: Vec<Kind> = found.all.iter().map(|ceiling| ceiling.kind).collect();
        assert_eq!(kinds, [Kind::Copy, Kind::CopyInCache, Kind::Matrix(DType::F32)]);
        assert!(found.all.iter().all(|ceiling| ceiling.rate() > 1e8), "{found:?}");
    }
}
