//! Keyword arguments that several functions share.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use warpfold::{Attention, Device, Mask, SeqLens};

use crate::error::{about, exception};

/// Which keys are visible: `causal` and `window` of attention and softmax.
pub fn positional_mask(causal: bool, window: [Option<i64>; 2]) -> PyResult<Mask> {
    let side = |side: Option<i64>| -> PyResult<Option<usize>> {
        side.map(usize::try_from).transpose().map_err(|_| {
            let shown = window.map(|side| side.map_or("None".to_string(), |side| side.to_string()));
            PyValueError::new_err(format!(
                "window is ({}, {}); each side is a number of keys, 0 or more, or None where it is unbounded",
                shown[0], shown[1]
            ))
        })
    };
    let mask = if causal { Mask::causal() } else { Mask::none() };
    Ok(mask.window(side(window[0])?, side(window[1])?))
}

/// The options of attention, as the keyword arguments of all its functions.
#[derive(Default)]
pub struct Options<'py> {
    causal: bool,
    window: [Option<i64>; 2],
    scale: Option<f32>,
    softcap: Option<f32>,
    dropout: f32,
    pub seed: u64,
    pub offset: u32,
    pub alibi_slopes: Option<Bound<'py, PyAny>>,
    pub bias: Option<Bound<'py, PyAny>>,
    pub mask: Option<Bound<'py, PyAny>>,
    pub sinks: Option<Bound<'py, PyAny>>,
    key_lengths: Option<Bound<'py, PyAny>>,
}

impl<'py> Options<'py> {
    /// Reads keyword arguments of `function`.
    pub fn new(function: &str, given: Option<&Bound<'py, PyDict>>) -> PyResult<Options<'py>> {
        let mut options = Options::default();
        for (name, value) in given.into_iter().flatten() {
            let name = name.cast::<PyString>()?;
            let array = || (!value.is_none()).then(|| value.clone());
            match name.to_str()? {
                "causal" => options.causal = read("causal", &value)?,
                "window" => options.window = read("window", &value)?,
                "scale" => options.scale = read("scale", &value)?,
                "softcap" => options.softcap = read("softcap", &value)?,
                "dropout" => options.dropout = read("dropout", &value)?,
                "seed" => options.seed = read("seed", &value)?,
                "offset" => options.offset = read("offset", &value)?,
                "alibi_slopes" => options.alibi_slopes = array(),
                "bias" => options.bias = array(),
                "mask" => options.mask = array(),
                "sinks" => options.sinks = array(),
                "key_lengths" => options.key_lengths = array(),
                other => {
                    return Err(PyTypeError::new_err(format!(
                        "{function}() got an unexpected keyword argument '{other}'; its options are causal, window, scale, \
                         softcap, alibi_slopes, bias, mask, sinks, key_lengths, dropout, seed and offset"
                    )));
                }
            }
        }
        Ok(options)
    }

    /// The layer that they configure.
    pub fn attention(&self) -> PyResult<Attention> {
        let mut attention = Attention::new().mask(positional_mask(self.causal, self.window)?).dropout(self.dropout);
        if let Some(scale) = self.scale {
            attention = attention.scale(scale);
        }
        if let Some(cap) = self.softcap {
            attention = attention.softcap(cap);
        }
        Ok(attention)
    }

    /// The lengths of padded keys.
    pub fn key_lengths(&self, device: &Device) -> PyResult<Option<SeqLens>> {
        let Some(given) = &self.key_lengths else { return Ok(None) };
        Ok(Some(SeqLens::new(device, &integers("key_lengths", given)?).map_err(exception)?))
    }

    /// Packed sequences have their lengths already.
    pub fn check_packed(&self) -> PyResult<()> {
        match self.key_lengths {
            None => Ok(()),
            Some(_) => Err(PyTypeError::new_err("packed sequences have no key_lengths: cu_seqlens_k gives them")),
        }
    }
}

/// An option's value; None is allowed where the option has none.
fn read<'py, T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>>(
    name: &str,
    value: &Bound<'py, PyAny>,
) -> PyResult<T> {
    value.extract::<T>().map_err(|error| about(value.py(), name, error.into()))
}

/// Integers of a list or of an array, which a GPU is waited for.
pub fn integers(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    let py = given.py();
    let list = match given.hasattr(pyo3::intern!(py, "tolist"))? {
        true => given.call_method0(pyo3::intern!(py, "tolist")).map_err(|error| about(py, name, error))?,
        false => given.clone(),
    };
    list.extract().map_err(|error| about(py, name, error))
}

/// Offsets of packed sequences: `[0, 3, 10]` are sequences of 3 and 7 tokens.
pub fn cumulative_lengths(device: &Device, name: &str, given: &Bound<'_, PyAny>) -> PyResult<SeqLens> {
    let starts = integers(name, given)?;
    SeqLens::from_cumulative(device, &starts)
        .map_err(|error| PyValueError::new_err(format!("{name} is {starts:?}: {error}")))
}
