//! Kernels loaded into a context, once each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, sys};
use cudarc::nvrtc::Ptx;

use crate::cuda::driver_error;
use crate::error::{Error, Result};
use crate::images;
use crate::ptx;
use crate::target::GpuTarget;
use crate::variants::Variant;

/// The loaded kernels of one context.
pub(crate) struct Modules {
    context: Arc<CudaContext>,
    functions: Mutex<HashMap<Variant, CudaFunction>>,
}

/// Caches of living contexts, shared by all devices on the same context.
static CACHES: OnceLock<Mutex<Vec<Weak<Modules>>>> = OnceLock::new();

impl Modules {
    pub fn of_context(context: &Arc<CudaContext>) -> Arc<Modules> {
        let mut caches = CACHES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|cache| cache.strong_count() > 0);
        let living = caches.iter().filter_map(Weak::upgrade).find(|cache| cache.context.cu_ctx() == context.cu_ctx());
        living.unwrap_or_else(|| {
            let cache = Arc::new(Modules { context: context.clone(), functions: Mutex::default() });
            caches.push(Arc::downgrade(&cache));
            cache
        })
    }

    /// The loaded kernel; loads it on first use.
    pub fn function(&self, variant: &'static Variant, target: &GpuTarget) -> Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(variant) {
            return Ok(function.clone());
        }
        let name = variant.name();
        let capability = target.compute_capability;
        if !variant.arch.runs_on(capability.major, capability.minor) {
            let detail = format!("it is for {}, the GPU has compute capability {capability}", variant.arch.name());
            return Err(Error::Image { kernel: name, detail });
        }
        let module = self.load(variant, target)?;
        let function = module.load_function(&name).map_err(driver_error("finding a kernel in its module"))?;
        if variant.shared_bytes() > 48 << 10 {
            function
                .set_attribute(
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    variant.shared_bytes() as i32,
                )
                .map_err(driver_error("asking for shared memory"))?;
        }
        functions.insert(*variant, function.clone());
        Ok(function)
    }

    /// Machine code where there is some for this GPU and the driver takes it, else PTX.
    fn load(&self, variant: &Variant, target: &GpuTarget) -> Result<Arc<CudaModule>> {
        let image = images::find(&variant.name())?;
        let capability = target.compute_capability;
        // Machine code of one major version runs on its later minor versions.
        let cubin = image
            .cubins
            .iter()
            .filter(|(arch, _)| arch / 10 == capability.major && arch % 10 <= capability.minor)
            .max_by_key(|(arch, _)| *arch);
        if let Some((_, compressed)) = cubin {
            let binary = images::unpack(image.name, compressed)?;
            // A driver older than the compiler refuses its machine code, and may still take the PTX.
            if let Ok(module) = self.context.load_module(Ptx::from_binary(binary)) {
                return Ok(module);
            }
        }
        let text = ptx::for_gpu(&images::unpack_text(image)?, variant.arch.ptx_version());
        self.context.load_module(Ptx::from_src(text)).map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => Error::DriverTooOld {
                found: format!("{}.{}", target.driver / 1000, target.driver % 1000 / 10),
                needed: "12.0",
            },
            _ => driver_error("loading a kernel")(error),
        })
    }
}

/// The machine code of a compiled kernel for a compute capability (`10 * major + minor`), as a disassembler takes it.
///
/// # Errors
/// [`Error::KernelsNotBuilt`]; [`Error::Image`] when there is no such kernel or no machine code for it.
pub fn image(name: &str, arch: u32) -> Result<Vec<u8>> {
    let image = images::find(name)?;
    match image.cubins.iter().find(|(of, _)| *of == arch) {
        Some((_, compressed)) => images::unpack(name, compressed),
        None => Err(Error::Image { kernel: name.to_string(), detail: format!("it has no machine code for sm_{arch}") }),
    }
}
