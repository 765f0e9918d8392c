//! What every call shares: where it runs, which arrays it reads, and what its results are.

#![allow(unsafe_code, reason = "PyTorch's streams are addresses, whose life PyTorch vouches for")]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use warpfold::cuda::cudarc::driver::CudaContext;
use warpfold::{DType, Device, Layout, Stream};

use crate::array::{Array, CurrentStream, Kind, Place, torch};
use crate::error::exception;
use crate::pool;

/// A call on the device of its first array, or on an emulator beside it.
pub struct Call<'py> {
    like: Bound<'py, PyAny>,
    kind: Kind,
    place: Place,
    pub device: Device,
    stream: Stream,
    current: Option<CurrentStream>,
    is_emulated: bool,
}

impl<'py> Call<'py> {
    /// A call on arrays like this one. `device` may name where they are, or an emulator for arrays in host memory.
    pub fn new(
        name: &'static str,
        like: &Bound<'py, PyAny>,
        device: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Call<'py>> {
        let kind = Kind::of(like)?;
        let place = Place::of(name, like, kind)?;
        let current = match place {
            Place::Host => None,
            Place::Cuda(ordinal) => Some(current_stream(like.py(), ordinal)?),
        };
        let wanted = device.map(|device| device.str()).transpose()?;
        let wanted = wanted.as_ref().map(|name| name.to_str()).transpose()?;
        let device = match wanted {
            None => device_of(place, current.as_ref())?,
            Some(wanted) => named_device(wanted, name, place, current.as_ref())?,
        };
        Ok(Call {
            like: like.clone(),
            kind,
            place,
            stream: device.stream(),
            current,
            is_emulated: wanted.is_some_and(|wanted| wanted.starts_with("emulator")),
            device,
        })
    }

    /// An array that is read.
    pub fn read(&self, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
        let mut array = Array::import(name, object, self.current.as_ref())?;
        if array.place != self.place {
            return Err(PyValueError::new_err(format!(
                "{name} is on {}, but the call runs on {}, where the first array is",
                array.place, self.place
            )));
        }
        if self.is_emulated {
            array.stage(&self.device)?;
        }
        Ok(array)
    }

    pub fn read_if(&self, name: &'static str, object: &Option<Bound<'py, PyAny>>) -> PyResult<Option<Array<'py>>> {
        object.as_ref().map(|object| self.read(name, object)).transpose()
    }

    /// The array for a result: the one that was given, apart from what is read, or a new one.
    pub fn result(
        &self,
        given: Option<&Bound<'py, PyAny>>,
        (dtype, layout): (DType, &Layout),
        reads: &[&Array<'py>],
    ) -> PyResult<Array<'py>> {
        let Some(given) = given else { return self.create(dtype, layout) };
        let array = self.read("out", given)?;
        array.check_writable()?;
        for read in reads {
            array.check_apart(read)?;
        }
        Ok(array)
    }

    /// A new array for a result.
    pub fn create(&self, dtype: DType, layout: &Layout) -> PyResult<Array<'py>> {
        let mut array = Array::empty(self.like.py(), self.kind, self.place, dtype, layout, self.current.as_ref())?;
        if self.is_emulated {
            array.stage(&self.device)?;
        }
        Ok(array)
    }

    /// Computes without holding Python's lock.
    pub fn run<T: Send>(&self, work: impl FnOnce(&Stream) -> warpfold::Result<T> + Send) -> PyResult<T> {
        let (py, stream) = (self.like.py(), &self.stream);
        let is_on_cpu = self.place == Place::Host && !self.is_emulated;
        pool::run(py, is_on_cpu, || work(stream))?.map_err(exception)
    }

    /// The array as the caller gets it.
    pub fn finish(&self, mut array: Array<'py>) -> PyResult<Bound<'py, PyAny>> {
        array.unstage()?;
        array.into_result(self.kind, &self.like)
    }
}

/// PyTorch's current stream on a GPU.
fn current_stream(py: Python<'_>, ordinal: usize) -> PyResult<CurrentStream> {
    let stream = torch(py)?.getattr(intern!(py, "cuda"))?.call_method1(intern!(py, "current_stream"), (ordinal,))?;
    Ok(CurrentStream(stream.getattr(intern!(py, "cuda_stream"))?.extract()?))
}

/// The device of arrays in a place.
fn device_of(place: Place, current: Option<&CurrentStream>) -> PyResult<Device> {
    match (place, current) {
        (Place::Cuda(ordinal), Some(stream)) => cuda_device(ordinal, stream.0).map_err(exception),
        _ => Ok(Device::cpu()),
    }
}

/// The device of this name, if arrays in this place can run there.
fn named_device(wanted: &str, name: &str, place: Place, current: Option<&CurrentStream>) -> PyResult<Device> {
    let elsewhere =
        || PyValueError::new_err(format!("{name} is on {place}, so that the call cannot run on \"{wanted}\""));
    if wanted == "cuda" || wanted.starts_with("cuda:") {
        let ordinal = wanted.strip_prefix("cuda:").map(str::parse::<usize>);
        return match (place, ordinal) {
            (Place::Cuda(_), None) => device_of(place, current),
            (Place::Cuda(given), Some(Ok(wanted))) if given == wanted => device_of(place, current),
            (_, Some(Err(_))) => wanted.parse::<Device>().map_err(exception),
            _ => {
                // Why there is no such GPU says more than that the array is not on it.
                warpfold::cuda::device_count().map_err(exception)?;
                Err(elsewhere())
            }
        };
    }
    let device = if wanted.starts_with("emulator") { emulator(wanted) } else { wanted.parse::<Device>() };
    let device = device.map_err(exception)?;
    match place {
        Place::Host if !device.to_string().starts_with("cuda") => Ok(device),
        _ => Err(elsewhere()),
    }
}

/// A GPU with a stream of PyTorch's. There are few of these, and each device knows its loaded kernels: they are kept.
fn cuda_device(ordinal: usize, stream: u64) -> warpfold::Result<Device> {
    static DEVICES: Mutex<Option<HashMap<(usize, u64), Device>>> = Mutex::new(None);
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let devices = devices.get_or_insert_default();
    if let Some(device) = devices.get(&(ordinal, stream)) {
        return Ok(device.clone());
    }
    // cudarc panics without a driver, and this tells what is missing.
    warpfold::cuda::device_count()?;
    let context = CudaContext::new(ordinal).map_err(|error| warpfold::Error::Cuda {
        call: "opening the GPU",
        code: error.0 as u32,
        message: format!("{error:?}"),
    })?;
    // SAFETY: PyTorch says that this is a stream of the primary context, which the context above is; it never destroys its
    // streams.
    let stream_of_torch = unsafe { context.wrap_borrowed_stream(stream as *mut _) };
    let device = Device::cuda_on(stream_of_torch)?;
    devices.insert((ordinal, stream), device.clone());
    Ok(device)
}

/// The emulators, which unpack each kernel once.
fn emulator(name: &str) -> warpfold::Result<Device> {
    static EMULATORS: Mutex<Option<HashMap<String, Device>>> = Mutex::new(None);
    let mut emulators = EMULATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let emulators = emulators.get_or_insert_default();
    if let Some(device) = emulators.get(name) {
        return Ok(device.clone());
    }
    let device: Device = name.parse()?;
    emulators.insert(name.to_string(), device.clone());
    Ok(device)
}

/// The devices that can be named on this machine.
pub fn devices() -> Vec<String> {
    let mut names = vec![Device::cpu().to_string()];
    let gpus = warpfold::cuda::device_count().unwrap_or(0);
    names.extend((0..gpus).map(|ordinal| format!("cuda:{ordinal}")));
    let emulators = ["emulator:sm_80", "emulator:sm_90a"].into_iter().filter(|name| emulator(name).is_ok());
    names.extend(emulators.map(str::to_string));
    names
}
