//! Finds out whether there is a driver before cudarc is asked for one: cudarc panics where there is none.

use cudarc::driver::{result, sys};

use crate::cuda::driver_error;
use crate::error::{Error, Result};

/// The names under which the driver's library is installed.
const LIBRARIES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// The lowest CUDA version whose driver takes the kernels' PTX.
const DRIVER_NEEDED: u32 = 12_000;

/// Whether the driver's library is there, new enough, and starts.
pub(super) fn check_driver() -> Result<()> {
    let mut detail = String::new();
    let found = LIBRARIES.iter().any(|name| {
        // SAFETY: loading NVIDIA's driver library runs its initialisers, which is what every CUDA program does.
        match unsafe { libloading::Library::new(*name) } {
            Ok(_) => true,
            Err(error) => {
                detail = error.to_string();
                false
            }
        }
    });
    if !found {
        return Err(Error::NoDriver { detail });
    }
    let version = driver_version()?;
    if version < DRIVER_NEEDED {
        return Err(Error::DriverTooOld {
            found: format!("{}.{}", version / 1000, version % 1000 / 10),
            needed: "12.0",
        });
    }
    result::init().map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Error::NoGpu { detail: describe(error) },
        // The toolkit's stub stands in for a driver that is not there.
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => Error::NoDriver { detail: describe(error) },
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            Error::DriverTooOld { found: describe(error), needed: "12.0" }
        }
        _ => driver_error("starting the driver")(error),
    })
}

fn describe(error: result::DriverError) -> String {
    error
        .error_string()
        .map_or_else(|_| format!("error {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
}

/// The CUDA version that the driver supports, as `1000 * major + 10 * minor`.
pub(super) fn driver_version() -> Result<u32> {
    let mut version = 0;
    // SAFETY: the driver writes one integer; the call needs no initialisation.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(driver_error("reading the driver's version"))?;
    Ok(version as u32)
}

/// The number of GPUs that the driver shows.
pub(super) fn device_count() -> Result<usize> {
    let count = result::device::get_count().map_err(driver_error("counting GPUs"))?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::NoGpu { detail: format!("it counts {count}") }),
    }
}
