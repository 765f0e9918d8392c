//! kernels/elementwise.cu: its compiled images, and one safe function a kernel.

use std::io::Read as _;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, LaunchConfig, PushKernelArg as _, sys,
};
use cudarc::nvrtc::Ptx;
use flate2::read::ZlibDecoder;

use super::{GpuElement, driver_error};
use crate::error::{Error, Result};

/// Threads of a block.
const THREADS: u32 = 256;

/// The kernels of one element type. All bytes are zlib streams.
pub(crate) struct Image {
    name: &'static str,
    #[allow(dead_code, reason = "for whoever reads the generated table")]
    registers: u32,
    ptx: &'static [u8],
    /// Machine code by compute capability, as `10 * major + minor`.
    cubins: &'static [(u32, &'static [u8])],
    #[allow(dead_code, reason = "only warpfold's own kernels run in the emulator")]
    annotated_ptx: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Whether this build holds the kernels.
///
/// # Errors
/// [`Error::KernelsNotBuilt`].
pub fn check_built() -> Result<()> {
    match NOT_BUILT {
        Some(reason) => Err(Error::KernelsNotBuilt { reason: reason.to_string() }),
        None => Ok(()),
    }
}

/// The loaded kernels of one element type.
pub struct Kernels {
    embed: CudaFunction,
    start: CudaFunction,
    gelu: CudaFunction,
}

/// The tables and tokens of an embedding lookup.
pub struct Lookup<'a, T> {
    pub words: &'a CudaSlice<T>,
    pub positions: &'a CudaSlice<T>,
    pub token_types: &'a CudaSlice<T>,
    pub hidden: usize,
    pub ids: &'a [u32],
    pub places: &'a [u32],
}

impl Kernels {
    /// Loads the kernels of type `T` into a context.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`], [`Error::Cuda`].
    pub fn load<T: GpuElement>(context: &Arc<CudaContext>) -> Result<Kernels> {
        check_built()?;
        let name = format!("minilm_{}", T::DTYPE);
        let image = IMAGES
            .iter()
            .find(|image| image.name == name)
            .ok_or_else(|| Error::KernelsNotBuilt { reason: format!("{name} is not in it") })?;
        let module = load(context, image)?;
        let function = |name| module.load_function(name).map_err(driver_error("finding a kernel in its module"));
        Ok(Kernels {
            embed: function("minilm_embed")?,
            start: function("minilm_start")?,
            gelu: function("minilm_gelu")?,
        })
    }

    /// Row by row the sum of the three embeddings, into `y`.
    ///
    /// # Errors
    /// [`Error::OutOfTable`] for an id or a place that a table does not have; [`Error::Cuda`].
    pub fn embed<T: GpuElement>(
        &self,
        stream: &Arc<CudaStream>,
        lookup: &Lookup<'_, T>,
        y: &mut CudaSlice<T>,
    ) -> Result<()> {
        let Lookup { words, positions, token_types, hidden, ids, places } = lookup;
        for (what, rows, table) in [("token", ids, words), ("position", places, positions)] {
            let limit = table.len() / hidden;
            if let Some(index) = rows.iter().find(|index| **index as usize >= limit) {
                return Err(Error::OutOfTable { what, index: *index, limit });
            }
        }
        let upload = |values: &[u32]| stream.clone_htod(values).map_err(driver_error("copying tokens to the GPU"));
        let (ids, places) = (upload(ids)?, upload(places)?);
        let (columns, elements) = (*hidden as u64, y.len() as u64);
        let config = one_thread_an_element(y.len())?;
        let mut launch = stream.launch_builder(&self.embed);
        launch.arg(*words).arg(*positions).arg(*token_types).arg(&ids).arg(&places).arg(y).arg(&columns).arg(&elements);
        // SAFETY: the arguments are the kernel's, in its order and types. It reads `ids.len()` rows of `hidden` from
        // tables that were just checked to have them, and writes no more than `y.len()` elements.
        unsafe { launch.launch(config) }.map_err(driver_error("launching minilm_embed")).map(|_| ())
    }

    /// `bias`, and `residual` where there is one, into every row of `y`.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn start<T: GpuElement>(
        &self,
        stream: &Arc<CudaStream>,
        bias: &CudaSlice<T>,
        residual: Option<&CudaSlice<T>>,
        y: &mut CudaSlice<T>,
    ) -> Result<()> {
        if let Some(residual) = residual.filter(|residual| residual.len() != y.len()) {
            return Err(Error::Mismatch { what: "the residual", elements: residual.len(), expected: y.len() });
        }
        let (columns, elements, null) = (bias.len() as u64, y.len() as u64, 0u64);
        let config = one_thread_an_element(y.len())?;
        let mut launch = stream.launch_builder(&self.start);
        launch.arg(bias);
        match residual {
            Some(residual) => launch.arg(residual),
            None => launch.arg(&null),
        };
        launch.arg(y).arg(&columns).arg(&elements);
        // SAFETY: the arguments are the kernel's, in its order and types, and a null residual is not read. It reads
        // within `bias`, and as many elements of the residual as it writes of `y`, which are of one length.
        unsafe { launch.launch(config) }.map_err(driver_error("launching minilm_start")).map(|_| ())
    }

    /// GELU in place.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn gelu<T: GpuElement>(&self, stream: &Arc<CudaStream>, y: &mut CudaSlice<T>) -> Result<()> {
        let elements = y.len() as u64;
        let config = one_thread_an_element(y.len())?;
        let mut launch = stream.launch_builder(&self.gelu);
        launch.arg(y).arg(&elements);
        // SAFETY: the arguments are the kernel's, in its order and types, and it stays within `y`.
        unsafe { launch.launch(config) }.map_err(driver_error("launching minilm_gelu")).map(|_| ())
    }
}

fn one_thread_an_element(elements: usize) -> Result<LaunchConfig> {
    let blocks = elements.div_ceil(THREADS as usize);
    match i32::try_from(blocks) {
        Ok(blocks) => {
            Ok(LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 })
        }
        Err(_) => Err(Error::TooLarge { what: "the number of elements", value: elements }),
    }
}

/// Machine code where there is some for this GPU and the driver takes it, else PTX.
fn load(context: &Arc<CudaContext>, image: &Image) -> Result<Arc<CudaModule>> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |attribute| {
        context.attribute(attribute).map(|value| value as u32).map_err(driver_error("reading the GPU's limits"))
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // Machine code of one major version runs on its later minor versions.
    let fits = |arch: u32| arch / 10 == major && arch % 10 <= minor;
    if let Some((_, code)) = image.cubins.iter().filter(|(arch, _)| fits(*arch)).max_by_key(|(arch, _)| *arch)
        && let Ok(module) = context.load_module(Ptx::from_binary(unpack(code)?))
    {
        return Ok(module);
    }
    let text = String::from_utf8(unpack(image.ptx)?)
        .map_err(|error| Error::Cuda { call: "unpacking a kernel", detail: error.to_string() })?;
    context.load_module(Ptx::from_src(text)).map_err(driver_error("loading a kernel"))
}

fn unpack(compressed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match ZlibDecoder::new(compressed).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Error::Cuda { call: "unpacking a kernel", detail: error.to_string() }),
    }
}
