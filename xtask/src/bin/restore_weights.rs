//! Unpacks the bundle's weights: reads the gzipped f16 file, writes the f32 file that the model's loader reads.

#[path = "../weights.rs"]
mod weights;

use std::fs::{self, File};
use std::io::Read as _;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [packed, unpacked] = arguments.as_slice() else { bail!("usage: restore-weights PACKED UNPACKED") };
    let mut small = Vec::new();
    let file = File::open(packed).with_context(|| format!("cannot open {packed}"))?;
    flate2::read::GzDecoder::new(file).read_to_end(&mut small).with_context(|| format!("cannot read {packed}"))?;
    fs::write(unpacked, weights::to_f32(&small)?).with_context(|| format!("cannot write {unpacked}"))
}
