//! `cargo xtask bundle`: the GPU checks as a folder, for a machine with an NVIDIA driver and neither Rust nor network.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

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
    programs.extend(executables(&["build", "--release", "--package", "minilm", "--bin", "minilm"], &[])?);
    let unpack = executables(&["build", "--release", "--package", "xtask", "--bin", "unpack"], &[])?;
    // The only program that holds the candidates for the table of kernels. Last, so that warpfold is built anew once.
    programs.extend(executables(&["build", "--release", "--package", "sweep"], &[sweep::CANDIDATES])?);

    let folder = target().join("bundle");
    let stage = target().join("bundle-stage");
    for folder in [&folder, &stage] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot replace {}", shown(folder)))?;
        }
    }
    fs::create_dir_all(&folder)?;
    progress::during("Packing the programs and the model", |bar| {
        for name in ["bin", "model"] {
            fs::create_dir_all(stage.join(name))?;
        }
        for (name, path) in &programs {
            strip(path, &stage.join("bin").join(name))?;
        }
        fs::write(stage.join(weights::SMALL), weights::to_f16(&fs::read(model.join("model.safetensors"))?)?)?;
        for name in ["tokenizer.json", "config.json"] {
            fs::copy(model.join(name), stage.join("model").join(name))?;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/pytorch.py");
        fs::copy(&script, stage.join("pytorch.py")).with_context(|| format!("cannot read {}", shown(&script)))?;
        bar.set_message("Compressing the programs and the model, a minute");
        compress(&stage, &folder.join("contents.tar.zst"))?;
        for (_, path) in &unpack {
            strip(path, &folder.join("unpack"))?;
        }
        let run = folder.join("run.sh");
        fs::write(&run, RUN)?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
        fs::remove_dir_all(&stage)?;
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

/// A copy of a program without its symbols.
fn strip(program: &Path, to: &Path) -> Result<()> {
    capture(Command::new("strip").arg("-o").arg(to).arg(program)).context("install binutils, which g++ needs too")?;
    Ok(())
}

/// Everything in a folder as one compressed archive: what programs have in common counts once.
fn compress(folder: &Path, archive: &Path) -> Result<()> {
    let file = File::create(archive).with_context(|| format!("cannot write {}", shown(archive)))?;
    let mut encoder = zstd::Encoder::new(file, 19)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log(weights::WINDOW_LOG)?;
    let mut archive = tar::Builder::new(encoder);
    archive.append_dir_all(".", folder)?;
    archive.into_inner()?.finish()?;
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

fn size_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
