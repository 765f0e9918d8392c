//! `cargo xtask bundle`: the GPU checks as a folder, for a machine with an NVIDIA driver and neither Rust nor network.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};

use crate::workspace::{capture, shown, target};
use crate::{demo, progress, sweep, test, weights};

/// What the folder may hold.
const BYTES_MAX: u64 = 64 << 20;

const RUN: &str = include_str!("run.sh");

/// Makes `target/bundle`.
pub fn run() -> Result<()> {
    crate::toolkit()?;
    let model = demo::model()?;
    let compiler = test::kernel_compiler(&["build", "--release", "--package", "warpfold"])?;
    println!("The kernels are compiled, by {compiler}");
    let mut programs =
        executables(&["test", "--release", "--no-run", "--package", "warpfold", "--test", "differential"], &[])?;
    programs.retain(|(name, _)| name == "differential");
    if programs.is_empty() {
        bail!("there is no test named differential");
    }
    for (package, name) in [("minilm", "minilm"), ("xtask", "restore-weights")] {
        programs.extend(executables(&["build", "--release", "--package", package, "--bin", name], &[])?);
    }
    // The only program that holds the candidates for the table of kernels. Last, so that warpfold is built anew once.
    programs.extend(executables(&["build", "--release", "--package", "sweep"], &[sweep::CANDIDATES])?);

    let folder = target().join("bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", shown(&folder)))?;
    }
    let (bin_folder, model_folder) = (folder.join("bin"), folder.join("model"));
    fs::create_dir_all(&bin_folder)?;
    fs::create_dir_all(&model_folder)?;
    progress::during("Packing the programs and the model", |bar| {
        for (name, path) in &programs {
            bar.set_message(format!("Packing {name}"));
            let stripped = bin_folder.join(name);
            capture(Command::new("strip").arg("-o").arg(&stripped).arg(path))
                .context("install binutils, which g++ needs too")?;
            pack(&fs::read(&stripped)?, &bin_folder.join(format!("{name}.gz")))?;
            fs::remove_file(&stripped)?;
        }
        bar.set_message("Packing the model");
        let weights = weights::to_f16(&fs::read(model.join("model.safetensors"))?)?;
        pack(&weights, &model_folder.join("model.safetensors.f16.gz"))?;
        for name in ["tokenizer.json", "config.json"] {
            pack(&fs::read(model.join(name))?, &model_folder.join(format!("{name}.gz")))?;
        }
        let run = folder.join("run.sh");
        fs::write(&run, RUN)?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
        Ok(())
    })?;

    let bytes = size_bytes(&folder)?;
    println!("{}: {:.1} MB, {} programs", shown(&folder), bytes as f64 / 1e6, programs.len());
    if bytes > BYTES_MAX {
        bail!("the bundle is larger than {} MB", BYTES_MAX / 1_000_000);
    }
    println!("Copy the folder to the machine with the GPU and start ./run.sh there; it writes results/.");
    Ok(())
}

/// Builds with this cargo command and these variables, and returns the programs that it names, with their paths.
fn executables(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Vec<(String, PathBuf)>> {
    let messages = test::cargo_messages(arguments, variables)?;
    let program = |message: &serde_json::Value| {
        let path = PathBuf::from(message["executable"].as_str()?);
        Some((message["target"]["name"].as_str()?.to_string(), path))
    };
    Ok(messages.iter().filter_map(program).collect())
}

fn pack(bytes: &[u8], path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", shown(path)))?;
    let mut encoder = GzEncoder::new(file, Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()?;
    Ok(())
}

fn size_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
