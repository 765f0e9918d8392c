//! The CUDA backend: matrix products by cuBLAS, the rest by kernels/elementwise.cu. The only unsafe code of the crate.

#![allow(unsafe_code, reason = "launches and cuBLAS are unsafe; each block says why it holds")]

mod cublas;
mod kernels;

use std::sync::Arc;

use cudarc::cublas::{CudaBlas, Gemm};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError, ValidAsZeroBits};
use half::{bf16, f16};
use warpfold::{DType, Device, Element, TensorMut, TensorRef};

use super::{After, Backend, rounded};
use crate::config::Config;
use crate::encoder::{Encode, Encoder};
use crate::error::{Error, Result};
use crate::weights::{LinearWeights, Weights};
use kernels::{Kernels, Lookup};

/// The number of a CUDA device, `None` for any other device.
pub(crate) fn ordinal(device: &Device) -> Option<usize> {
    device.to_string().strip_prefix("cuda:")?.parse().ok()
}

/// Whether what the model needs beside warpfold is there.
///
/// # Errors
/// [`Error::KernelsNotBuilt`], [`Error::NoCublas`].
pub(crate) fn check_usable() -> Result<()> {
    kernels::check_built()?;
    cublas::load()
}

/// An encoder on a GPU that warpfold has opened before.
///
/// # Errors
/// [`Error::UnsupportedDType`]; as [`check_usable`]; [`Error::Cuda`].
pub(crate) fn encoder(ordinal: usize, dtype: DType, config: Config, weights: &Weights) -> Result<Box<dyn Encode>> {
    match dtype {
        DType::F16 => Ok(Box::new(Encoder::new(CudaBackend::<f16>::open(ordinal)?, config, weights)?)),
        DType::BF16 => Ok(Box::new(Encoder::new(CudaBackend::<bf16>::open(ordinal)?, config, weights)?)),
        _ => Err(Error::UnsupportedDType { dtype, device: format!("cuda:{ordinal}"), available: "f16 and bf16" }),
    }
}

/// A type that the model runs in on a GPU.
pub(crate) trait GpuElement: Element + ValidAsZeroBits {
    /// The nearest number.
    fn nearest(value: f32) -> Self;
}

impl GpuElement for f16 {
    fn nearest(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

impl GpuElement for bf16 {
    fn nearest(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

/// A GPU. All work is in the order of one stream, warpfold's too.
pub(crate) struct CudaBackend<T> {
    device: Device,
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    kernels: Kernels,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T: GpuElement> CudaBackend<T> {
    fn open(ordinal: usize) -> Result<CudaBackend<T>> {
        check_usable()?;
        let context = CudaContext::new(ordinal).map_err(driver_error("opening the GPU"))?;
        let stream = context.new_stream().map_err(driver_error("creating a stream"))?;
        Ok(CudaBackend {
            device: Device::cuda_on(stream.clone())?,
            blas: CudaBlas::new(stream.clone())
                .map_err(|error| Error::Cuda { call: "starting cuBLAS", detail: error.to_string() })?,
            kernels: Kernels::load::<T>(&context)?,
            stream,
            element: std::marker::PhantomData,
        })
    }

    fn copy(&self, values: &[f32]) -> Result<CudaSlice<T>> {
        let values: Vec<T> = values.iter().map(|value| T::nearest(*value)).collect();
        self.stream.clone_htod(&values).map_err(driver_error("copying weights to the GPU"))
    }
}

/// `[outputs, inputs]` and `[outputs]`.
pub(crate) struct CudaLinear<T> {
    weight: CudaSlice<T>,
    bias: CudaSlice<T>,
    inputs: usize,
}

pub(crate) struct CudaTables<T> {
    words: CudaSlice<T>,
    positions: CudaSlice<T>,
    token_types: CudaSlice<T>,
    hidden: usize,
}

impl<T: GpuElement> Backend for CudaBackend<T>
where
    CudaBlas: Gemm<T>,
{
    type Memory = CudaSlice<T>;
    type Linear = CudaLinear<T>;
    type Tables = CudaTables<T>;

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        T::DTYPE
    }

    fn upload(&self, name: &str, values: &[f32]) -> Result<CudaSlice<T>> {
        self.copy(&rounded(name, values, T::DTYPE)?)
    }

    fn upload_linear(&self, weights: &LinearWeights) -> Result<CudaLinear<T>> {
        Ok(CudaLinear {
            weight: self.upload(&weights.name, &weights.weight)?,
            bias: self.upload(&weights.name, &weights.bias)?,
            inputs: weights.inputs,
        })
    }

    fn upload_tables(&self, weights: &Weights) -> Result<CudaTables<T>> {
        Ok(CudaTables {
            words: self.upload("word_embeddings", &weights.words)?,
            positions: self.upload("position_embeddings", &weights.positions)?,
            token_types: self.upload("token_type_embeddings", &weights.token_types)?,
            hidden: weights.embeddings_norm.weight.len(),
        })
    }

    fn allocate(&self, elements: usize) -> Result<CudaSlice<T>> {
        self.stream.alloc_zeros(elements).map_err(driver_error("allocating memory on the GPU"))
    }

    fn view<'a>(&'a self, memory: &'a CudaSlice<T>, shape: &[usize]) -> Result<TensorRef<'a>> {
        Ok(TensorRef::from_cuda(&self.device, memory, shape)?)
    }

    fn view_mut<'a>(&'a self, memory: &'a mut CudaSlice<T>, shape: &[usize]) -> Result<TensorMut<'a>> {
        Ok(TensorMut::from_cuda(&self.device, memory, shape)?)
    }

    fn embed(&self, tables: &CudaTables<T>, ids: &[u32], positions: &[u32]) -> Result<CudaSlice<T>> {
        let mut y = self.allocate(ids.len() * tables.hidden)?;
        let lookup = Lookup {
            words: &tables.words,
            positions: &tables.positions,
            token_types: &tables.token_types,
            hidden: tables.hidden,
            ids,
            places: positions,
        };
        self.kernels.embed(&self.stream, &lookup, &mut y)?;
        Ok(y)
    }

    fn linear(&self, x: &CudaSlice<T>, linear: &CudaLinear<T>, after: After<'_, CudaSlice<T>>) -> Result<CudaSlice<T>> {
        let (inputs, outputs) = (linear.inputs, linear.bias.len());
        let rows = x.len() / inputs;
        let mut y = self.allocate(rows * outputs)?;
        let residual = match after {
            After::Add(residual) => Some(residual),
            _ => None,
        };
        self.kernels.start(&self.stream, &linear.bias, residual, &mut y)?;
        let product = cublas::product([rows, inputs, outputs])?;
        // SAFETY: the weight holds outputs * inputs elements, x at least rows * inputs and y rows * outputs, which is
        // what the sizes and leading dimensions address; the three are of type T, and cudarc orders them by stream.
        unsafe { self.blas.gemm(product, &linear.weight, x, &mut y) }
            .map_err(|error| Error::Cuda { call: "a matrix product of cuBLAS", detail: error.to_string() })?;
        if matches!(after, After::Gelu) {
            self.kernels.gelu(&self.stream, &mut y)?;
        }
        Ok(y)
    }

    fn concatenate(&self, parts: &[CudaSlice<T>]) -> Result<CudaSlice<T>> {
        let mut all = self.allocate(parts.iter().map(|part| part.len()).sum())?;
        let mut start = 0;
        for part in parts {
            let end = start + part.len();
            self.stream
                .memcpy_dtod(part, &mut all.slice_mut(start..end))
                .map_err(driver_error("copying on the GPU"))?;
            start = end;
        }
        Ok(all)
    }
}

/// Names what was being done when the driver refused.
fn driver_error(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { call, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cuda_devices_have_a_number() {
        assert_eq!(ordinal(&Device::cpu()), None);
    }

    #[test]
    fn a_machine_without_cublas_gets_the_cure() {
        match check_usable() {
            Ok(()) => {
                // Not through `println`, which the test harness keeps to itself.
                let line = b"skipped: a_machine_without_cublas_gets_the_cure: this machine has cuBLAS\n";
                let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            }
            Err(error @ Error::NoCublas { .. }) => assert!(error.to_string().contains("LD_LIBRARY_PATH")),
            Err(error @ Error::KernelsNotBuilt { .. }) => assert!(error.to_string().contains("CUDA_HOME"), "{error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
