//! Unpacks the bundle where it was copied to: `unpack ARCHIVE FOLDER` puts the archive's files into the folder, and turns the model's
//! f16 weights into the f32 file that its loader reads.

#[path = "../weights.rs"]
mod weights;

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [archive, folder] = arguments.as_slice() else { bail!("usage: unpack ARCHIVE FOLDER") };
    let file = File::open(archive).with_context(|| format!("cannot open {archive}"))?;
    let mut decoder = zstd::Decoder::new(file).with_context(|| format!("cannot read {archive}"))?;
    decoder.window_log_max(weights::WINDOW_LOG)?;
    tar::Archive::new(decoder).unpack(folder).with_context(|| format!("cannot unpack {archive} into {folder}"))?;

    let (small, unpacked) = (Path::new(folder).join(weights::SMALL), Path::new(folder).join(weights::WEIGHTS));
    let shown = |path: &Path| path.display().to_string();
    let bytes = fs::read(&small).with_context(|| format!("cannot read {}", shown(&small)))?;
    fs::write(&unpacked, weights::to_f32(&weights::together(&bytes))?)
        .with_context(|| format!("cannot write {}", shown(&unpacked)))?;
    fs::remove_file(&small).with_context(|| format!("cannot remove {}", shown(&small)))
}
