//! The host backend, of the CPU device and of the emulator: matrix products by ndarray.

use ndarray::linalg::{general_mat_mul, general_mat_vec_mul};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use warpfold::{DType, Device, Layout, Tensor, TensorMut, TensorRef};

use super::{After, Backend, round, rounded};
use crate::error::{Error, Result};
use crate::weights::{LinearWeights, Weights};

/// Computes in f32 on the host, and rounds each result to the model's type.
pub(crate) struct HostBackend {
    device: Device,
    dtype: DType,
}

impl HostBackend {
    /// A backend for a device whose tensors warpfold keeps on the host.
    ///
    /// # Errors
    /// [`Error::UnsupportedDType`].
    pub fn new(device: Device, dtype: DType) -> Result<HostBackend> {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Ok(HostBackend { device, dtype }),
            _ => Err(Error::UnsupportedDType { dtype, device: device.to_string(), available: "f32, f16 and bf16" }),
        }
    }

    /// A tensor of the model's type.
    fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        let shape = [values.len()];
        Ok(match self.dtype {
            DType::F16 => {
                let values: Vec<half::f16> = values.iter().map(|value| half::f16::from_f32(*value)).collect();
                Tensor::from_slice(&self.device, &values, shape)?
            }
            DType::BF16 => {
                let values: Vec<half::bf16> = values.iter().map(|value| half::bf16::from_f32(*value)).collect();
                Tensor::from_slice(&self.device, &values, shape)?
            }
            _ => Tensor::from_slice(&self.device, values, shape)?,
        })
    }
}

/// Values of the model's type, kept in f32.
pub(crate) struct HostLinear {
    /// `[outputs, inputs]`.
    weight: Array2<f32>,
    bias: Vec<f32>,
}

pub(crate) struct HostTables {
    words: Array2<f32>,
    positions: Array2<f32>,
    token_types: Array2<f32>,
}

/// `values` fill rows of `columns`.
fn matrix(values: Vec<f32>, columns: usize) -> Array2<f32> {
    let rows = values.len() / columns;
    Array2::from_shape_vec((rows, columns), values).expect("the shapes of weights are checked when they are read")
}

impl Backend for HostBackend {
    type Memory = Tensor;
    type Linear = HostLinear;
    type Tables = HostTables;

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn upload(&self, name: &str, values: &[f32]) -> Result<Tensor> {
        self.tensor(&rounded(name, values, self.dtype)?)
    }

    fn upload_linear(&self, weights: &LinearWeights) -> Result<HostLinear> {
        Ok(HostLinear {
            weight: matrix(rounded(&weights.name, &weights.weight, self.dtype)?, weights.inputs),
            bias: rounded(&weights.name, &weights.bias, self.dtype)?,
        })
    }

    fn upload_tables(&self, weights: &Weights) -> Result<HostTables> {
        let hidden = weights.embeddings_norm.weight.len();
        let table = |name, values| -> Result<_> { Ok(matrix(rounded(name, values, self.dtype)?, hidden)) };
        Ok(HostTables {
            words: table("word_embeddings", &weights.words)?,
            positions: table("position_embeddings", &weights.positions)?,
            token_types: table("token_type_embeddings", &weights.token_types)?,
        })
    }

    fn allocate(&self, elements: usize) -> Result<Tensor> {
        Ok(Tensor::zeros(&self.device, self.dtype, [elements])?)
    }

    fn view<'a>(&'a self, memory: &'a Tensor, shape: &[usize]) -> Result<TensorRef<'a>> {
        Ok(memory.view().with_layout(Layout::contiguous(shape)?)?)
    }

    fn view_mut<'a>(&'a self, memory: &'a mut Tensor, shape: &[usize]) -> Result<TensorMut<'a>> {
        Ok(memory.view_mut().with_layout(Layout::contiguous(shape)?)?)
    }

    fn embed(&self, tables: &HostTables, ids: &[u32], positions: &[u32]) -> Result<Tensor> {
        let token_type = tables.token_types.row(0);
        check_rows("token", ids, &tables.words)?;
        check_rows("position", positions, &tables.positions)?;
        let mut values = Vec::with_capacity(ids.len() * token_type.len());
        for (id, position) in ids.iter().zip(positions) {
            let (word, position) = (tables.words.row(*id as usize), tables.positions.row(*position as usize));
            values.extend(
                word.iter().zip(position).zip(token_type).map(|((word, position), kind)| word + position + kind),
            );
        }
        self.tensor(&values)
    }

    fn linear(&self, x: &Tensor, linear: &HostLinear, after: After<'_, Tensor>) -> Result<Tensor> {
        let (outputs, inputs) = linear.weight.dim();
        let x = x.to_vec_f32()?;
        let rows = x.len() / inputs;
        let mut y = match after {
            After::Add(residual) => residual.to_vec_f32()?,
            _ => vec![0.0; rows * outputs],
        };
        for row in y.chunks_exact_mut(outputs) {
            row.iter_mut().zip(&linear.bias).for_each(|(y, bias)| *y += bias);
        }
        // Each thread takes some of the outputs, with the weights that they need.
        let part = outputs.div_ceil(rayon::current_num_threads()).next_multiple_of(8);
        let weights = linear.weight.axis_chunks_iter(Axis(0), part).into_par_iter();
        let x = ArrayView2::from_shape((rows, inputs), &x).expect("x holds whole rows");
        let mut y_rows = ArrayViewMut2::from_shape((rows, outputs), &mut y).expect("y has a row for each of x");
        let parts = y_rows.axis_chunks_iter_mut(Axis(1), part).into_par_iter();
        parts.zip(weights).for_each(|(mut y, weight)| match rows {
            // A matrix product that packs its operands would spend most of its time on packing the weights.
            1 => general_mat_vec_mul(1.0, &weight, &x.row(0), 1.0, &mut y.row_mut(0)),
            _ => general_mat_mul(1.0, &x, &weight.t(), 1.0, &mut y),
        });
        if matches!(after, After::Gelu) {
            y.par_chunks_mut(4096).for_each(|chunk| chunk.iter_mut().for_each(|y| *y = gelu(round(*y, self.dtype))));
        }
        self.tensor(&y)
    }

    fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor> {
        let mut values = Vec::new();
        for part in parts {
            values.extend(part.to_vec_f32()?);
        }
        self.tensor(&values)
    }
}

fn check_rows(what: &'static str, rows: &[u32], table: &Array2<f32>) -> Result<()> {
    let limit = table.nrows();
    match rows.iter().find(|index| **index as usize >= limit) {
        Some(index) => Err(Error::OutOfTable { what, index: *index, limit }),
        None => Ok(()),
    }
}

/// `y / 2 * (1 + erf(y / sqrt(2)))`, the exact form that the model was trained with.
fn gelu(y: f32) -> f32 {
    0.5 * y * (1.0 + libm::erff(y * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(dtype: DType) -> HostBackend {
        HostBackend::new(Device::cpu(), dtype).unwrap()
    }

    fn linear(backend: &HostBackend, inputs: usize, outputs: usize) -> (LinearWeights, HostLinear) {
        let mut random = fastrand::Rng::with_seed(7);
        let mut values = |count| (0..count).map(|_| random.f32() - 0.4).collect::<Vec<_>>();
        let weights =
            LinearWeights { name: "test".into(), inputs, weight: values(inputs * outputs), bias: values(outputs) };
        let uploaded = backend.upload_linear(&weights).unwrap();
        (weights, uploaded)
    }

    #[test]
    fn gelu_is_the_exact_one() {
        // 0.5 x (1 + erf(x / sqrt 2)), from tables of the normal distribution: x times its probability below x.
        // The tanh approximation is off by 2e-4 at -2.
        for (x, expected) in [(0.0, 0.0), (1.0, 0.841_344_746), (-1.0, -0.158_655_254), (-2.0, -0.045_500_264_f64)] {
            assert!((f64::from(gelu(x)) - expected).abs() < 2e-7, "gelu({x}) = {}", gelu(x));
        }
    }

    #[test]
    fn one_row_and_many_rows_give_the_plain_sum() {
        let backend = backend(DType::F32);
        let (weights, uploaded) = linear(&backend, 19, 11);
        let x: Vec<f32> = (0..5 * 19).map(|i| (i as f32 * 0.37).sin() + 0.2).collect();
        let residual: Vec<f32> = (0..5 * 11).map(|i| (i as f32 * 0.11).cos()).collect();
        let expected = |row: usize, column: usize| -> f64 {
            let dot: f64 =
                (0..19).map(|k| f64::from(x[row * 19 + k]) * f64::from(weights.weight[column * 19 + k])).sum();
            dot + f64::from(weights.bias[column]) + f64::from(residual[row * 11 + column])
        };
        for rows in [1, 2, 5] {
            let y = backend
                .linear(
                    &backend.upload("x", &x[..rows * 19]).unwrap(),
                    &uploaded,
                    After::Add(&backend.upload("residual", &residual[..rows * 11]).unwrap()),
                )
                .unwrap();
            for (index, y) in y.to_vec::<f32>().unwrap().iter().enumerate() {
                assert!(
                    (f64::from(*y) - expected(index / 11, index % 11)).abs() < 1e-5,
                    "{rows} rows, element {index}"
                );
            }
        }
    }

    #[test]
    fn results_are_numbers_of_the_type() {
        for dtype in [DType::F16, DType::BF16] {
            let backend = backend(dtype);
            let (_, uploaded) = linear(&backend, 8, 4);
            let x = backend.upload("x", &[0.1; 16]).unwrap();
            let y = backend.linear(&x, &uploaded, After::Gelu).unwrap();
            assert_eq!(y.dtype(), dtype);
            let x = x.to_vec_f32().unwrap()[0];
            assert!(x != 0.1 && round(x, dtype) == x);
        }
    }

    #[test]
    fn the_three_tables_are_added() {
        let backend = backend(DType::F32);
        let norm = crate::weights::NormWeights { name: String::new(), weight: vec![0.0; 2], bias: vec![0.0; 2] };
        let weights = Weights {
            words: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            positions: vec![10.0, 20.0, 30.0, 40.0],
            token_types: vec![100.0, 200.0],
            embeddings_norm: norm,
            layers: vec![],
        };
        let tables = backend.upload_tables(&weights).unwrap();
        let x = backend.embed(&tables, &[2, 0], &[0, 1]).unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [115.0, 226.0, 131.0, 242.0]);
        assert!(matches!(backend.embed(&tables, &[3], &[0]), Err(Error::OutOfTable { index: 3, limit: 3, .. })));
        assert!(matches!(backend.embed(&tables, &[0], &[2]), Err(Error::OutOfTable { index: 2, limit: 2, .. })));
    }

    #[test]
    fn a_weight_outside_the_type_is_refused() {
        let error = backend(DType::F16).upload("huge", &[1.0, 1e6]).unwrap_err();
        assert!(matches!(&error, Error::TensorValue { tensor, value, .. } if tensor == "huge" && *value == 1e6));
        assert!(backend(DType::BF16).upload("huge", &[1.0, 1e6]).is_ok());
        assert!(backend(DType::F32).upload("broken", &[f32::NAN]).is_err());
        assert!(matches!(HostBackend::new(Device::cpu(), DType::I32), Err(Error::UnsupportedDType { .. })));
    }
}
