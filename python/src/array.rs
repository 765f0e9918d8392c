//! Python arrays as tensors: DLPack in, the caller's own kind of array out, without a copy.

#![allow(unsafe_code, reason = "an address that another library exports can only be turned into memory unsafely")]

use dlpark::DlpackFlags;
use dlpark::ffi::{DLDevice, DLDeviceType};
use dlpark::python::{DlpackStream, ImportRequest, ImportedDlpack, StreamArg};
use half::{bf16, f16};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use warpfold::{DType, Device, Element, Layout, Tensor, TensorMut, TensorRef, TensorSpec};

use crate::error::{about, exception};

/// The library that an array is of, which the results are of too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NumPy,
    Torch,
    /// Whatever else exports DLPack: its results are made in NumPy's memory, or on a GPU and in bfloat16 in PyTorch's, and
    /// handed over through DLPack where the library can import them.
    Other,
}

impl Kind {
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Kind> {
        static NDARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let py = object.py();
        if object.is_instance(NDARRAY.import(py, "numpy", "ndarray")?)? {
            return Ok(Kind::NumPy);
        }
        // PyTorch is asked for only where it is loaded: nobody has a tensor of it otherwise.
        let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
        let is_torch = match modules.get_item(intern!(py, "torch")) {
            Ok(torch) => object.is_instance(&torch.getattr(intern!(py, "Tensor"))?)?,
            Err(_) => false,
        };
        Ok(if is_torch { Kind::Torch } else { Kind::Other })
    }
}

/// Whose memory an array is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Host,
    Cuda(usize),
}

impl Place {
    pub fn of(name: &str, object: &Bound<'_, PyAny>, kind: Kind) -> PyResult<Place> {
        if kind == Kind::NumPy {
            return Ok(Place::Host);
        }
        let py = object.py();
        if !object.hasattr(intern!(py, "__dlpack__"))? {
            return Err(PyTypeError::new_err(format!(
                "{name} is a {}; an array that exports DLPack is needed (of NumPy, PyTorch, JAX, ...)",
                object.get_type().name()?
            )));
        }
        let device = dlpark::python::dlpack_device(object.as_borrowed()).map_err(|error| about(py, name, error))?;
        Place::of_device(name, device)
    }

    fn of_device(name: &str, device: DLDevice) -> PyResult<Place> {
        match device.device_type {
            DLDeviceType::CPU | DLDeviceType::CUDAHOST => Ok(Place::Host),
            DLDeviceType::CUDA => Ok(Place::Cuda(device.device_id as usize)),
            other => Err(PyValueError::new_err(format!(
                "{name} is on a device of DLPack's type {}; warpfold takes CPU and CUDA memory",
                other.0
            ))),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Host => f.write_str("cpu"),
            Place::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// PyTorch's current stream, as the producer of an array has to know it.
pub struct CurrentStream(pub u64);

// SAFETY: the address is that of a stream of PyTorch's, which it keeps as long as the process lives, and the argument follows
// DLPack's convention for CUDA.
unsafe impl DlpackStream for CurrentStream {
    fn as_python_arg(&self, _: Python<'_>, _: DLDevice) -> PyResult<StreamArg> {
        Ok(dlpark::python::consumer::stream::cuda(self.0 as *mut std::ffi::c_void))
    }

    unsafe fn wait_for_producer(&self, _: DLDevice, producer: *mut std::ffi::c_void) -> PyResult<bool> {
        // Work of one stream is in order already; anything else goes the way of the Python protocol.
        Ok(producer as u64 == self.0)
    }
}

/// An array of Python's, as a tensor.
pub struct Array<'py> {
    name: &'static str,
    object: Bound<'py, PyAny>,
    /// Keeps the exported memory alive.
    _memory: ImportedDlpack,
    address: u64,
    dtype: DType,
    layout: Layout,
    pub place: Place,
    is_writable: bool,
    /// Whether the memory was got for this result.
    is_fresh: bool,
    /// The copy that an emulator works on, all of the memory that the layout reaches.
    staged: Option<Tensor>,
}

impl<'py> Array<'py> {
    /// Imports an array without a copy.
    pub fn import(
        name: &'static str,
        object: &Bound<'py, PyAny>,
        stream: Option<&CurrentStream>,
    ) -> PyResult<Array<'py>> {
        let py = object.py();
        let kind = Kind::of(object)?;
        if kind == Kind::Torch {
            check_torch(name, object)?;
        }
        let place = Place::of(name, object, kind)?;
        let stream = stream.map(|stream| stream as &dyn DlpackStream);
        let request = match kind {
            Kind::NumPy => {
                ImportRequest::new(numpy_capsule(object).map_err(|error| about(py, name, error))?.as_borrowed())
            }
            Kind::Torch | Kind::Other => ImportRequest::new(object.as_borrowed()),
        };
        let memory =
            request.and_then(|request| request.import(stream, None)).map_err(|error| about(py, name, error))?;
        let flags = memory.flags();
        let is_versioned = matches!(memory, ImportedDlpack::Versioned(_));
        let tensor = memory.validate().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;

        let given = tensor.dtype();
        let dtype = match (given.code.0, given.bits, given.lanes) {
            (2, 32, 1) => DType::F32,
            (2, 16, 1) => DType::F16,
            (4, 16, 1) => DType::BF16,
            (0, 32, 1) => DType::I32,
            (1 | 6, 8, 1) => DType::U8,
            _ => {
                let dtype = object.getattr(intern!(py, "dtype")).map(|dtype| dtype.to_string());
                let dtype =
                    dtype.unwrap_or_else(|_| format!("of DLPack's type {} with {} bits", given.code.0, given.bits));
                return Err(PyTypeError::new_err(format!(
                    "{name} is {dtype}; float32, float16 or bfloat16 is needed (bool for masks)"
                )));
            }
        };
        let sizes = |values: &[i64], what: &str| -> PyResult<Vec<usize>> {
            values.iter().map(|value| usize::try_from(*value)).collect::<Result<_, _>>().map_err(|_| {
                PyValueError::new_err(format!(
                    "{name} has negative {what} {values:?}; copy it first, for example with .copy()"
                ))
            })
        };
        let shape = sizes(tensor.shape(), "sizes")?;
        let strides = tensor.strides_or_compact().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
        let strides = sizes(&strides, "strides")?;
        let layout = match shape.contains(&0) {
            // Strides without elements say nothing, and NumPy's are all 0.
            true => Layout::contiguous(&shape),
            false => Layout::strided(&shape, &strides, 0),
        };
        let layout = layout.map_err(exception)?;
        Ok(Array {
            name,
            object: object.clone(),
            address: tensor.data_ptr() as u64 + tensor.byte_offset(),
            dtype,
            layout,
            place,
            is_fresh: false,
            is_writable: is_versioned && !flags.intersects(DlpackFlags::READ_ONLY | DlpackFlags::IS_COPIED),
            staged: None,
            _memory: memory,
        })
    }

    /// Makes an array of a kind and on a place, with these strides, for a result.
    pub fn empty(
        py: Python<'py>,
        kind: Kind,
        place: Place,
        dtype: DType,
        layout: &Layout,
        stream: Option<&CurrentStream>,
    ) -> PyResult<Array<'py>> {
        // NumPy has neither memory on GPUs nor bfloat16.
        let is_torch = kind == Kind::Torch || place != Place::Host || dtype == DType::BF16;
        let object = if is_torch { torch_empty(py, place, dtype, layout)? } else { numpy_empty(py, dtype, layout)? };
        let array = Array { is_fresh: true, ..Array::import("the result", &object, stream)? };
        if is_torch && place == Place::Host {
            ask_for_large_pages(array.address as usize, layout.num_elements() * dtype.size_bytes());
        }
        Ok(array)
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn check_writable(&self) -> PyResult<()> {
        match self.is_writable {
            true => Ok(()),
            false => Err(PyValueError::new_err(format!("{} cannot be written: it is read-only", self.name))),
        }
    }

    /// The array with dimensions of size 1 in front, as broadcasting has it.
    pub fn with_rank(mut self, rank: usize) -> PyResult<Array<'py>> {
        let missing = rank.saturating_sub(self.layout.rank());
        if missing > 0 {
            let shape = [&vec![1; missing][..], self.layout.shape()].concat();
            let strides = [&vec![0; missing][..], self.layout.strides()].concat();
            self.layout = Layout::strided(&shape, &strides, 0).map_err(exception)?;
        }
        Ok(self)
    }

    /// The addresses of the memory that the elements lie in.
    fn span(&self) -> std::ops::Range<u64> {
        let elements = if self.layout.num_elements() == 0 { 0 } else { self.layout.end() };
        self.address..self.address + (elements * self.dtype.size_bytes()) as u64
    }

    /// Whether it is the very same tensor.
    pub fn is_same(&self, other: &Array<'_>) -> bool {
        (self.address, self.dtype, self.layout) == (other.address, other.dtype, other.layout)
    }

    /// A result must not lie in the memory that is read, gaps between elements included.
    pub fn check_apart(&self, other: &Array<'_>) -> PyResult<()> {
        let (a, b) = (self.span(), other.span());
        match a.start < b.end && b.start < a.end {
            false => Ok(()),
            true => Err(PyValueError::new_err(format!(
                "{} and {} lie in the same memory; give it its own",
                self.name, other.name
            ))),
        }
    }

    /// Copies the memory to a device that has its own.
    pub fn stage(&mut self, device: &Device) -> PyResult<()> {
        let flat = Layout::contiguous(&[self.layout.end()]).map_err(exception)?;
        let cpu = Device::cpu();
        // SAFETY: the exporter vouches for the memory that its array reaches.
        let memory = unsafe { TensorRef::from_raw(self.address, self.dtype, flat, &cpu) }.map_err(exception)?;
        let staged = match self.dtype {
            DType::F16 => copied::<f16>(device, &memory),
            DType::BF16 => copied::<bf16>(device, &memory),
            DType::I32 => copied::<i32>(device, &memory),
            DType::U8 => copied::<u8>(device, &memory),
            _ => copied::<f32>(device, &memory),
        };
        self.staged = Some(staged.map_err(exception)?);
        Ok(())
    }

    /// Copies results back from a device that has its own memory.
    pub fn unstage(&mut self) -> PyResult<()> {
        let Some(staged) = self.staged.take() else { return Ok(()) };
        match self.dtype {
            DType::F16 => self.write_back::<f16>(&staged),
            DType::BF16 => self.write_back::<bf16>(&staged),
            DType::I32 => self.write_back::<i32>(&staged),
            DType::U8 => self.write_back::<u8>(&staged),
            _ => self.write_back::<f32>(&staged),
        }
    }

    fn write_back<T: Element>(&self, staged: &Tensor) -> PyResult<()> {
        let values = staged.to_vec::<T>().map_err(exception)?;
        let size_bytes = values.len() * self.dtype.size_bytes();
        // SAFETY: the values were copied from these very addresses, whose exporter allows writing; nothing overlaps.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), self.address as *mut u8, size_bytes) };
        Ok(())
    }

    /// What a plan reads of it.
    pub fn spec(&self, device: &Device) -> PyResult<TensorSpec> {
        Ok(self.view(device)?.spec())
    }

    pub fn view<'a>(&'a self, device: &'a Device) -> PyResult<TensorRef<'a>> {
        match &self.staged {
            Some(staged) => staged.view().with_layout(self.layout),
            // SAFETY: the exporter vouches for the memory as long as its array lives, which this one holds; its contents are
            // in the order of the stream that it was asked for.
            None => unsafe { TensorRef::from_raw(self.address, self.dtype, self.layout, device) },
        }
        .map_err(exception)
    }

    pub fn view_mut<'a>(&'a mut self, device: &'a Device) -> PyResult<TensorMut<'a>> {
        match &mut self.staged {
            Some(staged) => staged.view_mut().with_layout(self.layout),
            // SAFETY: as above; `check_writable` and `check_apart` hold, or the array was made for this result.
            None => unsafe { TensorMut::from_raw(self.address, self.dtype, self.layout, device) },
        }
        .map(|view| if self.is_fresh { view.fresh() } else { view })
        .map_err(exception)
    }

    /// The array as a result of a call with arrays like this one.
    pub fn into_result(self, kind: Kind, like: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = like.py();
        if kind != Kind::Other || !like.hasattr(intern!(py, "__array_namespace__"))? {
            return Ok(self.object);
        }
        like.call_method0(intern!(py, "__array_namespace__"))?.call_method1(intern!(py, "from_dlpack"), (&self.object,))
    }
}

/// What NumPy exports, without first asking for what it has not: a failed look for a C interface costs more than a small softmax.
fn numpy_capsule<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static KEYWORDS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let py = array.py();
    let keywords = KEYWORDS.get_or_try_init(py, || {
        let keywords = PyDict::new(py);
        keywords.set_item("max_version", (1, 0))?;
        PyResult::Ok(keywords.unbind())
    })?;
    array.call_method(intern!(py, "__dlpack__"), (), Some(keywords.bind(py)))
}

fn copied<T: Element>(device: &Device, memory: &TensorRef<'_>) -> warpfold::Result<Tensor> {
    Tensor::from_slice(device, &memory.to_vec::<T>()?, memory.shape())
}

/// A tensor whose gradient somebody waits for must not be computed with behind autograd's back.
fn check_torch(name: &str, tensor: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = tensor.py();
    if tensor.getattr(intern!(py, "requires_grad"))?.is_truthy()? {
        return Err(PyTypeError::new_err(format!(
            "{name} requires grad, which this function would lose: use warpfold.torch, whose functions have gradients, or \
             {name}.detach()"
        )));
    }
    if tensor.call_method0(intern!(py, "is_neg"))?.is_truthy()? {
        return Err(PyValueError::new_err(format!("{name} is a negated view; call {name}.resolve_neg() first")));
    }
    Ok(())
}

fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::I32 => "int32",
        _ => "uint8",
    }
}

fn torch_empty<'py>(py: Python<'py>, place: Place, dtype: DType, layout: &Layout) -> PyResult<Bound<'py, PyAny>> {
    let torch = torch(py)?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "dtype"), torch.getattr(type_name(dtype))?)?;
    if place != Place::Host {
        options.set_item(intern!(py, "device"), place.to_string())?;
    }
    let sizes = (PyTuple::new(py, layout.shape())?, PyTuple::new(py, layout.strides())?);
    torch.call_method(intern!(py, "empty_strided"), sizes, Some(&options))
}

/// PyTorch, for arrays of its own, and for the memory of every result on a GPU.
pub fn torch(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static TORCH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let torch = TORCH.get_or_try_init(py, || match py.import(intern!(py, "torch")) {
        Ok(torch) => Ok(torch.into_any().unbind()),
        Err(error) => {
            let text =
                "results on a GPU or in bfloat16 are made in PyTorch's memory, and it is not there: pip install torch";
            let missing = PyRuntimeError::new_err(text);
            missing.set_cause(py, Some(error));
            Err(missing)
        }
    })?;
    Ok(torch.bind(py).clone())
}

/// Asks Linux to back new memory with pages of 2 MB: without them, a large result costs a fault for every 4 KB, which takes longer
/// than to compute it. NumPy asks for its own arrays, from the same size on; PyTorch does not.
fn ask_for_large_pages(address: usize, size_bytes: usize) {
    const PAGE: usize = 2 << 20;
    const SIZE_MIN: usize = 4 << 20;
    let (start, end) = (address.next_multiple_of(PAGE), (address + size_bytes) / PAGE * PAGE);
    #[cfg(target_os = "linux")]
    if size_bytes >= SIZE_MIN {
        // SAFETY: advice on pages that lie wholly within memory that the caller made; it changes nothing that they hold. It may be
        // refused, as where large pages are turned off, and then the pages stay small.
        unsafe { libc::madvise(start as *mut std::ffi::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, end, SIZE_MIN);
}

fn numpy_empty<'py>(py: Python<'py>, dtype: DType, layout: &Layout) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let empty = EMPTY.import(py, "numpy", "empty")?;
    let dtype = PyString::intern(py, type_name(dtype));
    if layout.is_contiguous() {
        return empty.call1((PyTuple::new(py, layout.shape())?, dtype));
    }
    // NumPy is asked for the dimensions in their order in memory, and then for a view in the order of the shape.
    let mut order: Vec<usize> = (0..layout.rank()).collect();
    order.sort_by_key(|axis| std::cmp::Reverse(layout.strides()[*axis]));
    let in_memory = PyTuple::new(py, order.iter().map(|axis| layout.shape()[*axis]))?;
    let axes = PyTuple::new(py, (0..order.len()).map(|axis| order.iter().position(|at| *at == axis)))?;
    empty.call1((in_memory, dtype))?.call_method1(intern!(py, "transpose"), (axes,))
}
