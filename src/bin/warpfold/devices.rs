//! `warpfold devices`.

use std::collections::BTreeMap;

use clap::Args;
use warpfold::{Device, Target};

use crate::Outcome;

#[derive(Args)]
pub struct Devices {}

impl Devices {
    pub fn run(&self) -> anyhow::Result<Outcome> {
        println!("best here: {}", Device::best().reason());
        println!();
        let cpu = Device::cpu();
        println!("cpu              {}; {} threads", cpu.reason(), rayon::current_num_threads());
        for name in ["cpu:amx", "cpu:avx512_bf16", "cpu:avx512", "cpu:avx2", "cpu:portable"] {
            match name.parse::<Device>() {
                Ok(_) => println!("{name:<16} usable"),
                Err(error) => println!("{name:<16} not usable: {error}"),
            }
        }
        println!();
        gpus();
        for name in ["emulator:sm_80", "emulator:sm_90a"] {
            match name.parse::<Device>() {
                Ok(device) => println!("{name:<16} usable: the compiled kernels on the CPU, as {}", device.target()),
                Err(error) => println!("{name:<16} not usable: {error}"),
            }
        }
        println!();
        kernels();
        Ok(Outcome::Success)
    }
}

#[cfg(feature = "cuda")]
fn gpus() {
    match warpfold::cuda::device_count() {
        Err(error) => println!("{:<16} not usable: {error}", "cuda:0"),
        Ok(0) => println!("{:<16} not usable: the driver shows no GPU", "cuda:0"),
        Ok(count) => {
            for ordinal in 0..count {
                match Device::cuda(ordinal) {
                    Ok(device) => {
                        let driver = match device.target() {
                            Target::Gpu(gpu) => {
                                format!("; the driver is for CUDA {}.{}", gpu.driver / 1000, gpu.driver % 1000 / 10)
                            }
                            _ => String::new(),
                        };
                        println!("{:<16} usable: {}{driver}", device.to_string(), device.target());
                    }
                    Err(error) => println!("cuda:{ordinal:<11} not usable: {error}"),
                }
            }
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus() {
    println!("{:<16} not usable: this build is without the cargo feature `cuda`", "cuda:0");
}

/// What is embedded, by what it runs on.
fn kernels() {
    let kernels = warpfold::kernels();
    if kernels.is_empty() {
        println!("kernels          none: there was no CUDA compiler at build time; `cargo xtask toolkit` installs one");
        return;
    }
    let mut by_code: BTreeMap<&[u32], usize> = BTreeMap::new();
    for kernel in &kernels {
        *by_code.entry(&kernel.architectures).or_default() += 1;
    }
    println!("kernels          {} by {}", kernels.len(), warpfold::kernel_compiler());
    for (architectures, count) in by_code {
        let names: Vec<String> = architectures.iter().map(|arch| format!("{}.{}", arch / 10, arch % 10)).collect();
        println!("{:<16} {count} with machine code for {}, and PTX", "", names.join(", "));
    }
}
