//! What goes wrong becomes a `ValueError`, a `TypeError` or a `RuntimeError`, with the values in it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyBufferError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use warpfold::Error;

/// The exception for an error of warpfold.
pub fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::DTypeMismatch { .. } | Error::UnsupportedDType { .. } | Error::Missing { .. } => PyTypeError::new_err(text),
        Error::FeatureDisabled { .. }
        | Error::NoDriver { .. }
        | Error::DriverTooOld { .. }
        | Error::NoGpu { .. }
        | Error::NoImage { .. }
        | Error::KernelsNotBuilt { .. }
        | Error::Cuda { .. }
        | Error::Image { .. }
        | Error::Emulator { .. }
        // Plans are made of the very tensors that they run with.
        | Error::PlanMismatch { .. } => PyRuntimeError::new_err(text),
        // Shapes, strides, options, names: the values are what is wrong.
        _ => PyValueError::new_err(text),
    }
}

/// An exception of Python's about a named argument: it keeps its cause and is of the three kinds that callers expect.
pub fn about(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let text = format!("{name}: {}", error.value(py));
    let named = if error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyBufferError>(py) {
        PyTypeError::new_err(text)
    } else if error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyOverflowError>(py) {
        PyValueError::new_err(text)
    } else {
        PyRuntimeError::new_err(text)
    };
    named.set_cause(py, Some(error));
    named
}

/// Runs a call so that not even a panic, which would be a bug, gets past as anything but an exception that can be caught.
pub fn guarded<T>(call: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = message_of(panic.as_ref());
        Err(PyRuntimeError::new_err(format!("warpfold panicked, which is a bug of its own: {message}")))
    })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
