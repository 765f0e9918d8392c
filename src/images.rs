//! The compiled kernels that build.rs embedded: compressed, unpacked on first use.

use std::borrow::Cow;
use std::io::Read as _;

use crate::error::{Error, Result};

/// One compiled kernel of [`crate::variants::VARIANTS`]. All texts and binaries are zlib-compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub name: &'static str,
    /// Registers of a thread, as ptxas reported them for the first cubin: what a block starts with, where its warps exchange
    /// registers later.
    pub registers: u32,
    /// PTX: with source positions where the emulator is built too.
    pub ptx: &'static [u8],
    /// Machine code by compute capability, as `10 * major + minor`. A row for sm_90a has that of 9.0, for it alone.
    pub cubins: &'static [(u32, &'static [u8])],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The image of a kernel.
///
/// # Errors
/// [`Error::KernelsNotBuilt`].
pub(crate) fn find(name: &str) -> Result<&'static Image> {
    check_built()?;
    IMAGES
        .iter()
        .find(|image| image.name == name)
        .ok_or_else(|| Error::Image { kernel: name.to_string(), detail: "it is not in this build".to_string() })
}

/// Whether this build holds kernels at all.
pub(crate) fn check_built() -> Result<()> {
    match NOT_BUILT {
        Some(reason) => Err(Error::KernelsNotBuilt { reason: Cow::Borrowed(reason).into_owned() }),
        None => Ok(()),
    }
}

/// Unpacks a part of an image.
pub(crate) fn unpack(name: &str, compressed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(compressed)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Image { kernel: name.to_string(), detail: error.to_string() })?;
    Ok(bytes)
}

/// Unpacks the PTX of a kernel.
pub(crate) fn unpack_text(image: &Image) -> Result<String> {
    String::from_utf8(unpack(image.name, image.ptx)?)
        .map_err(|error| Error::Image { kernel: image.name.to_string(), detail: error.to_string() })
}

/// A compiled kernel that this build holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelInfo {
    /// The kernel's name.
    pub name: &'static str,
    /// The compute capabilities that it has machine code for, as `10 * major + minor`; others take its PTX.
    pub architectures: Vec<u32>,
    /// Registers of a thread.
    pub registers: u32,
}

/// The compiled kernels of this build; empty when there was no CUDA compiler.
pub fn kernels() -> Vec<KernelInfo> {
    IMAGES
        .iter()
        .map(|image| KernelInfo {
            name: image.name,
            architectures: image.cubins.iter().map(|(arch, _)| *arch).collect(),
            registers: image.registers,
        })
        .collect()
}

/// The CUDA compiler that built the kernels, such as `nvcc 13.0.88`; empty when there was none.
pub fn kernel_compiler() -> &'static str {
    COMPILER
}
