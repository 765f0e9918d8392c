//! One attempt of softmax or layer norm: inputs, a device's result, and the oracle's verdict.

use warpfold::reference::{self, compare, naive};
use warpfold::{DType, Device, Error, LayerNorm, LayerNormInputs, LayerNormOutputs, Softmax};

use super::{Placed, Placement, upload, values};

/// Rows of one shape and type, in one place.
#[derive(Clone, Debug)]
pub struct RowsAttempt {
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub placements: [Placement; 2],
    pub mean: f64,
    pub spread: f64,
    pub seed: u64,
}

impl RowsAttempt {
    pub fn new(shape: &[usize], dtype: DType, placement: Placement) -> RowsAttempt {
        RowsAttempt { shape: shape.to_vec(), dtype, placements: [placement; 2], mean: 0.5, spread: 1.0, seed: 11 }
    }

    fn columns(&self) -> usize {
        *self.shape.last().expect("rows have columns")
    }

    fn x(&self) -> Vec<f64> {
        values(self.seed, self.shape.iter().product(), self.mean, self.spread, self.dtype)
    }

    pub fn softmax(&self, device: &Device) -> Result<Vec<f64>, Error> {
        let x = Placed::new(device, self.dtype, &self.x(), &self.shape, self.placements[0])?;
        let mut y = Placed::poisoned(device, self.dtype, &self.shape, self.placements[1])?;
        let plan = Softmax::new().plan(&x.view().spec(), Some(&y.view().spec()), &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.forward_into(&stream, x.view(), y.view_mut(), &mut workspace)?;
        y.values()
    }

    pub fn check_softmax(&self, device: &Device, why: &str) {
        let y = self.softmax(device).unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        let oracle = reference::softmax_forward(&self.x(), self.columns());
        let naive = naive::softmax_forward(&self.x(), self.columns(), self.dtype);
        compare::check("softmax", &self.shape, self.dtype, &y, &oracle, &naive, 2.0)
            .unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
        self.check_rounding("softmax", &y, &oracle, device, why);
    }

    /// Results of 16 bits are computed in f32, so that nearly all of them are the nearest numbers to the oracle's.
    fn check_rounding(&self, what: &str, y: &[f64], oracle: &[f64], device: &Device, why: &str) {
        let nearest = y.iter().zip(oracle).filter(|(y, oracle)| **y == naive::round(**oracle, self.dtype)).count();
        assert!(
            self.dtype == DType::F32 || nearest * 100 >= y.len() * 97,
            "{why} on {device}: only {nearest} of {} results of {what} are rounded to nearest\n{self:?}",
            y.len()
        );
    }

    /// Layer norm with weight and bias, each given or not.
    pub fn check_layer_norm(&self, device: &Device, with_weight: bool, with_bias: bool, why: &str) {
        let columns = self.columns();
        let weight = with_weight.then(|| values(self.seed + 1, columns, 1.0, 0.2, self.dtype));
        let bias = with_bias.then(|| values(self.seed + 2, columns, 0.1, 0.5, self.dtype));
        let eps = 1e-5f32;
        let run = || -> Result<[Vec<f64>; 3], Error> {
            let x = Placed::new(device, self.dtype, &self.x(), &self.shape, self.placements[0])?;
            let mut y = Placed::poisoned(device, self.dtype, &self.shape, self.placements[1])?;
            let leading = &self.shape[..self.shape.len() - 1];
            let mut mean = Placed::poisoned(device, DType::F32, leading, Placement::Contiguous)?;
            let mut rstd = Placed::poisoned(device, DType::F32, leading, Placement::Contiguous)?;
            let place = |values: &Option<Vec<f64>>| {
                let values = values.as_ref();
                values.map(|values| Placed::new(device, self.dtype, values, &[columns], self.placements[0])).transpose()
            };
            let (weight, bias) = (place(&weight)?, place(&bias)?);
            let mut inputs = LayerNormInputs::new(x.view());
            if let Some(weight) = &weight {
                inputs = inputs.weight(weight.view());
            }
            if let Some(bias) = &bias {
                inputs = inputs.bias(bias.view());
            }
            let spec = inputs.spec().output(y.view().spec());
            let plan = LayerNorm::new().eps(eps).plan(&spec, &device.target())?;
            let stream = device.stream();
            let mut workspace = plan.workspace(&stream)?;
            let outputs = LayerNormOutputs::new(y.view_mut()).stats(mean.view_mut(), rstd.view_mut());
            plan.forward_into(&stream, &inputs, outputs, &mut workspace)?;
            Ok([y.values()?, mean.values()?, rstd.values()?])
        };
        let [y, mean, rstd] = run().unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        let (weight, bias) = (weight.as_deref(), bias.as_deref());
        let oracle = reference::layer_norm_forward(&self.x(), columns, weight, bias, f64::from(eps));
        let naive = naive::layer_norm_forward(&self.x(), columns, weight, bias, f64::from(eps), self.dtype);
        let judge = || -> Result<(), compare::Mismatch> {
            compare::check("layer norm", &self.shape, self.dtype, &y, &oracle.y, &naive, 2.0)?;
            // Statistics are f32 whatever the type of x: the mean as exact as a sum of distances from a value of the row
            // can be, rstd to some units of its last place.
            for (row, x) in self.x().chunks(columns).enumerate() {
                let reach = x.iter().fold(0.0f64, |max, value| max.max((value - oracle.mean[row]).abs()));
                // And then rounded once.
                let half_ulp = 2f64.powi(oracle.mean[row].abs().max(1e-30).log2().floor() as i32 - 24);
                let allowed = 2f64.powi(-20) * reach + half_ulp;
                let error = (mean[row] - oracle.mean[row]).abs();
                assert!(
                    error <= allowed,
                    "{why} on {device}: mean of row {row} is {error:e} off, over {allowed:e}\n{self:?}"
                );
                let error = (rstd[row] / oracle.rstd[row] - 1.0).abs();
                assert!(
                    error <= 2f64.powi(-18),
                    "{why} on {device}: rstd of row {row} is {error:e} of itself off\n{self:?}"
                );
            }
            Ok(())
        };
        judge().unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
        self.check_rounding("layer norm", &y, &oracle.y, device, why);
    }
}

/// Softmax of rows whose results need no oracle: of -inf only, of one finite value, with a NaN, and of equal values.
pub fn check_softmax_of_special_values(device: &Device, dtype: DType, columns: usize, why: &str) {
    let mut x = vec![f64::NEG_INFINITY; 4 * columns];
    // Far below 0, so that only its distance from the maximum gives it a weight.
    x[columns + 1] = -3000.0;
    x[2 * columns] = f64::NAN;
    x[3 * columns..].fill(0.25);
    let x = upload(device, dtype, &x, &[4, columns]).expect("a valid tensor");
    let y = Softmax::new().forward(&x).and_then(|y| y.to_vec_f32());
    let y = y.unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{dtype}, {columns} columns"));
    let rows: Vec<&[f32]> = y.chunks(columns).collect();
    let hold = |row: usize, what: &str, is_right: &dyn Fn(usize, f32) -> bool| {
        let wrong = rows[row].iter().enumerate().find(|(column, value)| !is_right(*column, **value));
        if let Some((column, value)) = wrong {
            panic!("{why} on {device}: {what}: {value:e} at column {column}\n{dtype}, {columns} columns");
        }
    };
    hold(0, "a row of -inf", &|_, value| value == 0.0);
    hold(1, "one finite value", &|column, value| value == f32::from(column == 1));
    hold(2, "a row with a NaN", &|_, value| value.is_nan());
    let share = 1.0 / columns as f64;
    // In f16 a small share is a multiple of 2^-24.
    let spacing = if dtype == DType::F16 { 2f64.powi(-24) } else { 0.0 };
    let allowed = share * (1e-6 + naive::unit_roundoff(dtype)) + spacing;
    hold(3, "equal values", &|_, value| (f64::from(value) - share).abs() <= allowed);
}
