//! The rate of cuBLAS, where it is installed.

use std::path::{Path, PathBuf};
use std::{env, fs, mem};

use anyhow::{Result, anyhow};
use half::{bf16, f16};
use libloading::Library;
use warpfold::DType;
use warpfold::cuda::cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use warpfold::cuda::cudarc::cublas::{CudaBlas, Gemm, GemmConfig};
use warpfold::cuda::cudarc::driver::DeviceRepr;

use super::Events;
use crate::bench::ceilings::{Ceiling, Kind, Unit};
use crate::bench::trial::values;

/// Rows, columns and depth.
const SIZE: usize = 8192;

/// Loads cuBLAS for the rest of the process, so that cudarc, which panics without it, finds it: by its name where the loader knows
/// it, else from the folder of a CUDA toolkit or of a virtual environment.
pub fn load() -> Result<()> {
    let names = ["libcublas.so", "libcublas.so.13", "libcublas.so.12"];
    if names.iter().any(|name| open(Path::new(name))) {
        return Ok(());
    }
    for (folder, version) in folders().iter().flat_map(|folder| ["13", "12"].map(|version| (folder, version))) {
        // libcublas needs libcublasLt, which the loader may not find for itself.
        if open(&folder.join(format!("libcublasLt.so.{version}")))
            && open(&folder.join(format!("libcublas.so.{version}")))
        {
            return Ok(());
        }
    }
    Err(anyhow!("cuBLAS is not installed, or not found"))
}

fn open(name: &Path) -> bool {
    // SAFETY: loading NVIDIA's library runs its initialisers, which is what every program that uses it does.
    unsafe { Library::new(name) }.map(mem::forget).is_ok()
}

fn folders() -> Vec<PathBuf> {
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let mut folders: Vec<PathBuf> =
        toolkits.chain([PathBuf::from("/usr/local/cuda")]).map(|toolkit| toolkit.join("lib64")).collect();
    if let Some(environment) = env::var_os("VIRTUAL_ENV") {
        let pythons = fs::read_dir(Path::new(&environment).join("lib")).into_iter().flatten().flatten();
        for python in pythons {
            let packages = python.path().join("site-packages/nvidia");
            folders.extend(["cu13/lib", "cublas/lib"].map(|folder| packages.join(folder)));
        }
    }
    folders
}

/// The rate of one large product, of operands like those of the other problems.
pub fn ceiling(events: &Events, dtype: DType, budget_ms: f64) -> Result<Ceiling> {
    match dtype {
        DType::BF16 => product(events, dtype, bf16::from_f32, budget_ms),
        DType::F16 => product(events, dtype, f16::from_f32, budget_ms),
        _ => product(events, dtype, |value| value, budget_ms),
    }
}

fn product<T: DeviceRepr + Copy>(
    events: &Events,
    dtype: DType,
    element: fn(f32) -> T,
    budget_ms: f64,
) -> Result<Ceiling>
where
    CudaBlas: Gemm<T>,
{
    let stream = events.stream();
    let blas = CudaBlas::new(stream.clone())?;
    let matrix = |seed| -> Result<_> {
        let values: Vec<T> = values(seed, SIZE * SIZE, dtype, 0.1, 1.5).into_iter().map(element).collect();
        Ok(stream.clone_htod(&values)?)
    };
    let (a, b, mut c) = (matrix(1)?, matrix(2)?, matrix(3)?);
    let size = i32::try_from(SIZE)?;
    let config = GemmConfig {
        transa: CUBLAS_OP_T,
        transb: CUBLAS_OP_N,
        m: size,
        n: size,
        k: size,
        alpha: element(1.0),
        lda: size,
        ldb: size,
        beta: element(0.0),
        ldc: size,
    };
    let mut call = || {
        // SAFETY: the three matrices are square, of the size that the configuration says, and on the stream of the handle.
        Ok(unsafe { blas.gemm(config, &a, &b, &mut c) }?)
    };
    let measured = events.measure(&mut call, 1, budget_ms)?;
    Ok(Ceiling {
        kind: Kind::Matrix(dtype),
        problem: format!("{SIZE}x{SIZE} by {SIZE}x{SIZE}"),
        measured,
        work: 2.0 * (SIZE as f64).powi(3),
        unit: Unit::Teraflops,
        note: "cuBLAS: a library's rate, no limit".to_string(),
    })
}
