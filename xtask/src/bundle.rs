//! `cargo xtask bundle`: the GPU checks as a folder, for a machine with an NVIDIA driver and neither Rust nor network.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{capture, root, shown, target};
use crate::{demo, progress, python, sweep, test, weights};

/// What the folder may hold.
const BYTES_MAX: u64 = 64 << 20;

const RUN: &str = include_str!("bundle/run.sh");

/// What the programs are built of: one set of features and one set of kernels, which is compiled, linked and packed once.
const PROGRAMS: [&str; 9] = [
    "--release",
    "--package",
    "warpfold",
    "--package",
    "minilm",
    "--package",
    "sweep",
    "--features",
    "warpfold/cli,warpfold/cuda,minilm/emulator,sweep/emulator",
];

/// Scripts, and where the bundle has them: below `to`, by their own names.
const SCRIPTS: [(&str, &[&str], &str); 3] = [
    ("python/bench", &["py"], "python/bench"),
    ("benches", &["py"], "benches"),
    ("crates/ptx-emu/tests/hardware", &["py", "ptx"], "hardware"),
];

/// Makes `target/bundle`.
pub fn run() -> Result<()> {
    crate::toolkit()?;
    let model = demo::model()?;
    // What is built is what lies there now.
    let commit = commit();
    let wheel = python::wheel()?;
    let mut messages = test::cargo_messages(&[&["build", "--bins"], &PROGRAMS[..]].concat(), &[sweep::CANDIDATES])?;
    println!("The kernels are compiled, by {}", test::compiler_of(&messages)?);
    let differential = ["test", "--no-run", "--test", "differential"];
    messages.extend(test::cargo_messages(&[&differential, &PROGRAMS[..]].concat(), &[sweep::CANDIDATES])?);
    let programs = ["warpfold", "differential", "minilm", "sweep"].map(|name| executable(&messages, name));
    let programs: Vec<PathBuf> = programs.into_iter().collect::<Result<_>>()?;
    let unpack = ["build", "--release", "--package", "xtask", "--bin", "unpack"];
    let unpack = executable(&test::cargo_messages(&unpack, &[])?, "unpack")?;

    let folder = target().join("bundle");
    let stage = target().join("bundle-stage");
    for folder in [&folder, &stage] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot replace {}", shown(folder)))?;
        }
    }
    fs::create_dir_all(&folder)?;
    progress::during("Packing the programs, the Python package and the model", |bar| {
        fs::create_dir_all(stage.join("bin"))?;
        for path in &programs {
            // A test's file has a number behind its name.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            strip(path, &stage.join("bin").join(name.split('-').next().unwrap_or(name)))?;
        }
        // Unpacked, so that its kernels are compressed together with those of the programs.
        let unzip = ["-m", "zipfile", "-e"];
        capture(Command::new("python3").args(unzip).arg(&wheel).arg(stage.join("python")))?;
        for (from, extensions, to) in SCRIPTS {
            copy_files(&root().join(from), extensions, &stage.join(to))?;
        }
        fs::create_dir_all(stage.join("model"))?;
        let weights = weights::to_f16(&fs::read(model.join("model.safetensors"))?)?;
        fs::write(stage.join(weights::SMALL), weights::apart(&weights))?;
        for name in ["tokenizer.json", "config.json"] {
            fs::copy(model.join(name), stage.join("model").join(name))?;
        }
        bar.set_message("Compressing the programs and the model, a minute");
        compress(&stage, &folder.join("contents.tar.zst"))?;
        strip(&unpack, &folder.join("unpack"))?;
        fs::write(folder.join("commit"), &commit)?;
        let run = folder.join("run.sh");
        fs::write(&run, RUN)?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
        fs::remove_dir_all(&stage)?;
        Ok(())
    })?;

    let bytes = size_bytes(&folder)?;
    println!("{}: {:.1} MB, {} programs and the Python package", shown(&folder), bytes as f64 / 1e6, programs.len());
    if bytes > BYTES_MAX {
        bail!("the bundle is larger than {:.1} MB", BYTES_MAX as f64 / 1e6);
    }
    println!("Copy the folder to the machine with the GPU and start ./run.sh there; it writes results/.");
    Ok(())
}

/// What the records of the bundle's runs name: the commit, with a + where files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = capture(Command::new("git").arg("-C").arg(root()).args(arguments)).ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    match (git(&["rev-parse", "--short", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) => commit + if changes.is_empty() { "" } else { "+" },
        _ => "unknown".to_string(),
    }
}

/// The files of a folder with these extensions.
fn copy_files(from: &Path, extensions: &[&str], to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", shown(from)))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if extensions.contains(&extension) {
            fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
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
    // What holds the kernels lies together, within the window.
    for name in ["bin", "python", "benches", "hardware", "model"] {
        archive.append_dir_all(name, folder.join(name))?;
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

/// The program of that name that cargo built.
fn executable(messages: &[serde_json::Value], name: &str) -> Result<PathBuf> {
    let of_name = messages.iter().filter(|message| message["target"]["name"] == name);
    let path = of_name.filter_map(|message| message["executable"].as_str()).next_back();
    path.map(PathBuf::from).with_context(|| format!("cargo built no program {name}"))
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
