//! The native half of the Python package: warpfold's public API over arrays that export DLPack.

#![deny(unsafe_code)]

mod array;
mod attention;
mod call;
mod error;
mod norm;
mod options;
mod pool;
mod softmax;

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The devices of this machine that `device=` can name: "cpu", "cuda:0" and so on for GPUs whose driver is there, and
/// the emulators of the CUDA kernels.
///
/// >>> import warpfold as wf
/// >>> "cpu" in wf.devices()
/// True
#[pyfunction]
fn devices() -> Vec<String> {
    call::devices()
}

/// The compiled CUDA kernels in this package: for each its name, the compute capabilities that it has machine code for (later
/// ones take its PTX), and the registers of a thread.
///
/// >>> import warpfold as wf
/// >>> sorted(wf.kernels()[0])
/// ['compute_capabilities', 'name', 'registers']
#[pyfunction]
fn kernels(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let shown = |kernel: warpfold::KernelInfo| {
        let entry = PyDict::new(py);
        entry.set_item("name", kernel.name)?;
        let capabilities = kernel.architectures.iter().map(|arch| format!("{}.{}", arch / 10, arch % 10));
        entry.set_item("compute_capabilities", capabilities.collect::<Vec<_>>())?;
        entry.set_item("registers", kernel.registers)?;
        Ok(entry)
    };
    warpfold::kernels().into_iter().map(shown).collect()
}

/// Panics, for the test that no panic reaches Python as one.
#[pyfunction]
#[pyo3(name = "_panic")]
fn panic(message: String) -> PyResult<()> {
    error::guarded(|| panic!("{message}"))
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(attention::attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention::attention_backward, module)?)?;
    module.add_function(wrap_pyfunction!(attention::attention_varlen, module)?)?;
    module.add_function(wrap_pyfunction!(attention::attention_varlen_backward, module)?)?;
    module.add_function(wrap_pyfunction!(attention::merge_states, module)?)?;
    module.add_function(wrap_pyfunction!(softmax::softmax, module)?)?;
    module.add_function(wrap_pyfunction!(softmax::softmax_backward, module)?)?;
    module.add_function(wrap_pyfunction!(norm::layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(norm::layer_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(norm::rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(norm::rms_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(devices, module)?)?;
    module.add_function(wrap_pyfunction!(kernels, module)?)?;
    module.add_function(wrap_pyfunction!(panic, module)?)?;
    Ok(())
}
