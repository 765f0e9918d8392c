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

/// The kernels in the emulator, against the host backend: the same tables and rows, and numbers that need rounding.
#[cfg(test)]
mod tests {
    use ptx_emu::{Architecture, Launch, Memory, Module, Options};
    use warpfold::{DType, Device};

    use super::*;
    use crate::backend::host::HostBackend;
    use crate::backend::{After, Backend as _};
    use crate::weights::{LinearWeights, NormWeights, Weights};

    /// A kernel module in emulated memory.
    struct Emulated {
        dtype: DType,
        module: Module,
        memory: Memory,
    }

    /// The modules of both types; none where none were built.
    fn modules() -> Vec<Emulated> {
        if let Err(error) = check_built() {
            println!("skipped: {error}");
            return Vec::new();
        }
        let module = |(name, dtype)| {
            let image = IMAGES.iter().find(|image| image.name == name).unwrap();
            let text = String::from_utf8(unpack(image.ptx).unwrap()).unwrap();
            Emulated { dtype, module: Module::parse(&text).unwrap(), memory: Memory::new() }
        };
        [("minilm_f16", DType::F16), ("minilm_bf16", DType::BF16)].map(module).into()
    }

    /// Values near 1 that are not numbers of either type.
    fn values(count: usize, first: usize) -> Vec<f32> {
        (first..first + count).map(|index| (index as f32 * 0.731).sin() * 1.7 + 0.2).collect()
    }

    impl Emulated {
        fn upload_bytes(&self, bytes: &[u8]) -> u64 {
            let address = self.memory.allocate(bytes.len() as u64, 256).unwrap();
            self.memory.write(address, bytes).unwrap();
            address
        }

        /// Numbers of the module's type.
        fn upload(&self, values: &[f32]) -> u64 {
            let bits = |value: &f32| match self.dtype {
                DType::F16 => half::f16::from_f32(*value).to_bits(),
                _ => half::bf16::from_f32(*value).to_bits(),
            };
            self.upload_bytes(&values.iter().flat_map(|value| bits(value).to_le_bytes()).collect::<Vec<u8>>())
        }

        fn upload_rows(&self, rows: &[u32]) -> u64 {
            self.upload_bytes(&rows.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>())
        }

        fn allocate(&self, elements: usize) -> u64 {
            self.memory.allocate(elements as u64 * 2, 256).unwrap()
        }

        /// Runs a kernel, launched for `elements`; every hazard is a failure.
        fn run(&self, kernel: &str, elements: usize, params: &[u64]) {
            let config = one_thread_an_element(elements).unwrap();
            let params: Vec<[u8; 8]> = params.iter().map(|param| param.to_le_bytes()).collect();
            let params: Vec<&[u8]> = params.iter().map(|param| &param[..]).collect();
            let launch = Launch {
                kernel: self.module.kernel(kernel).unwrap(),
                grid: config.grid_dim.into(),
                block: config.block_dim.into(),
                cluster: [1, 1, 1],
                registers: 0,
                dynamic_shared_bytes: config.shared_mem_bytes,
                params: &params,
            };
            let report = ptx_emu::run(&launch, &self.memory, &Options::new(Architecture::Sm80)).unwrap();
            assert!(report.hazards.is_empty(), "{kernel}: {:?}", report.hazards);
        }

        fn read(&self, address: u64, elements: usize) -> Vec<f32> {
            let mut bytes = vec![0; elements * 2];
            self.memory.read(address, &mut bytes).unwrap();
            let number = |bits: &[u8; 2]| match self.dtype {
                DType::F16 => half::f16::from_le_bytes(*bits).to_f32(),
                _ => half::bf16::from_le_bytes(*bits).to_f32(),
            };
            bytes.as_chunks::<2>().0.iter().map(number).collect()
        }
    }

    #[test]
    fn embeddings_are_those_of_the_host() {
        // 21 rows of 37 make several blocks, the last one not full.
        let (hidden, ids, places) = (37, [4u32, 0, 5].repeat(7), (0..21).collect::<Vec<u32>>());
        let weights = Weights {
            words: values(6 * hidden, 0),
            positions: values(21 * hidden, 1000),
            token_types: values(2 * hidden, 2000),
            embeddings_norm: NormWeights { name: String::new(), weight: vec![0.0; hidden], bias: vec![0.0; hidden] },
            layers: vec![],
        };
        for gpu in modules() {
            let host = HostBackend::new(Device::cpu(), gpu.dtype).unwrap();
            let tables = host.upload_tables(&weights).unwrap();
            let expected = host.embed(&tables, &ids, &places).unwrap().to_vec_f32().unwrap();
            let y = gpu.allocate(expected.len());
            let params = [
                gpu.upload(&weights.words),
                gpu.upload(&weights.positions),
                gpu.upload(&weights.token_types),
                gpu.upload_rows(&ids),
                gpu.upload_rows(&places),
                y,
                hidden as u64,
                expected.len() as u64,
            ];
            gpu.run("minilm_embed", expected.len(), &params);
            assert_eq!(gpu.read(y, expected.len()), expected, "{}", gpu.dtype);
        }
    }

    #[test]
    fn bias_residual_and_gelu_are_those_of_the_host() {
        let (rows, columns) = (9, 61);
        let elements = rows * columns;
        // A product with a weight of zero leaves what a sum starts from.
        let weights =
            LinearWeights { name: String::new(), inputs: 1, weight: vec![0.0; columns], bias: values(columns, 300) };
        for gpu in modules() {
            let host = HostBackend::new(Device::cpu(), gpu.dtype).unwrap();
            let linear = host.upload_linear(&weights).unwrap();
            let x = host.upload("x", &vec![1.0; rows]).unwrap();
            let residual = host.upload("residual", &values(elements, 5)).unwrap();
            let (bias, added) = (gpu.upload(&weights.bias), gpu.upload(&residual.to_vec_f32().unwrap()));
            let y = gpu.allocate(elements);
            for (after, added) in [(After::Add(&residual), added), (After::Nothing, 0)] {
                let expected = host.linear(&x, &linear, after).unwrap().to_vec_f32().unwrap();
                gpu.run("minilm_start", elements, &[bias, added, y, columns as u64, elements as u64]);
                assert_eq!(gpu.read(y, elements), expected, "{}", gpu.dtype);
            }
            // Two implementations of erf may round to neighbours.
            let ulp = if gpu.dtype == DType::F16 { 2.0f32.powi(-10) } else { 2.0f32.powi(-7) };
            let expected = host.linear(&x, &linear, After::Gelu).unwrap().to_vec_f32().unwrap();
            gpu.run("minilm_gelu", elements, &[y, elements as u64]);
            for (index, (ours, theirs)) in gpu.read(y, elements).iter().zip(&expected).enumerate() {
                assert!((ours - theirs).abs() <= ulp * theirs.abs(), "{}, {index}: {ours}, {theirs}", gpu.dtype);
            }
        }
    }
}
