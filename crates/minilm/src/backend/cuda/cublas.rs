//! Finds cuBLAS, and describes a product to it.

use std::path::{Path, PathBuf};
use std::{env, fs, mem};

use cudarc::cublas::GemmConfig;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use libloading::Library;

use super::GpuElement;
use crate::error::{Error, Result};

/// The names under which cuBLAS is installed; cudarc looks for these too, and panics where there is none.
const NAMES: [&str; 3] = ["libcublas.so", "libcublas.so.13", "libcublas.so.12"];

/// Loads cuBLAS, so that cudarc finds it: by its name where the loader knows it, else from the folder of a CUDA
/// toolkit or of a virtual environment. A library that is loaded is found again by its name wherever it lies.
///
/// # Errors
/// [`Error::NoCublas`].
pub fn load() -> Result<()> {
    let mut detail = String::new();
    if NAMES.iter().any(|name| open(Path::new(name), &mut detail)) {
        return Ok(());
    }
    for folder in folders() {
        for version in ["13", "12"] {
            // libcublas needs libcublasLt, which the loader may not find for itself.
            if open(&folder.join(format!("libcublasLt.so.{version}")), &mut String::new())
                && open(&folder.join(format!("libcublas.so.{version}")), &mut String::new())
            {
                return Ok(());
            }
        }
    }
    Err(Error::NoCublas { detail })
}

/// Loads a library for the rest of the process.
fn open(name: &Path, detail: &mut String) -> bool {
    // SAFETY: loading NVIDIA's library runs its initialisers, which is what every program that uses it does.
    match unsafe { Library::new(name) } {
        Ok(library) => {
            mem::forget(library);
            true
        }
        Err(error) => {
            *detail = error.to_string();
            false
        }
    }
}

/// Folders that may hold cuBLAS although the loader does not look there.
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

/// `y += x weight^T`, of row-major `x [rows, inputs]`, `weight [outputs, inputs]` and `y [rows, outputs]`.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn product<T: GpuElement>([rows, inputs, outputs]: [usize; 3]) -> Result<GemmConfig<T>> {
    let size = |what, value: usize| i32::try_from(value).map_err(|_| Error::TooLarge { what, value });
    let rows = size("the number of tokens", rows)?;
    let (inputs, outputs) = (size("the number of inputs", inputs)?, size("the number of outputs", outputs)?);
    // cuBLAS counts columns first, so it sees each row-major matrix transposed, and computes
    // y^T [outputs, rows] += weight [outputs, inputs] x^T [inputs, rows].
    Ok(GemmConfig {
        transa: CUBLAS_OP_T,
        transb: CUBLAS_OP_N,
        m: outputs,
        n: rows,
        k: inputs,
        alpha: T::nearest(1.0),
        lda: inputs,
        ldb: inputs,
        beta: T::nearest(1.0),
        ldc: outputs,
    })
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    /// What cuBLAS documents: `c = alpha op(a) op(b) + beta c`, matrices in columns of `ld*` elements.
    fn gemm(config: &GemmConfig<f16>, a: &[f32], b: &[f32], c: &mut [f32]) {
        let [m, n, k, lda, ldb, ldc] =
            [config.m, config.n, config.k, config.lda, config.ldb, config.ldc].map(|size| size as usize);
        let at = |matrix: &[f32], ld: usize, is_transposed: bool, row: usize, column: usize| match is_transposed {
            true => matrix[column + row * ld],
            false => matrix[row + column * ld],
        };
        for row in 0..m {
            for column in 0..n {
                let dot: f32 = (0..k)
                    .map(|i| {
                        at(a, lda, config.transa == CUBLAS_OP_T, row, i)
                            * at(b, ldb, config.transb == CUBLAS_OP_T, i, column)
                    })
                    .sum();
                let c = &mut c[row + column * ldc];
                *c = config.alpha.to_f32() * dot + config.beta.to_f32() * *c;
            }
        }
    }

    #[test]
    fn the_product_is_the_row_major_one() {
        let (rows, inputs, outputs) = (3, 5, 4);
        let [x, weight, mut y]: [Vec<f32>; 3] = [rows * inputs, outputs * inputs, rows * outputs]
            .map(|count| (0..count).map(|i| (i * i % 7) as f32).collect());
        let mut expected = y.clone();
        for row in 0..rows {
            for output in 0..outputs {
                expected[row * outputs + output] +=
                    (0..inputs).map(|i| x[row * inputs + i] * weight[output * inputs + i]).sum::<f32>();
            }
        }
        gemm(&product([rows, inputs, outputs]).unwrap(), &weight, &x, &mut y);
        assert_eq!(y, expected);
        assert!(matches!(product::<f16>([1 << 31, 1, 1]), Err(Error::TooLarge { .. })));
    }
}
