//! What the kernels cost: registers, shared memory and occupancy, each loop's instructions and the cycles that they need
//! of every unit, and the traffic of a small problem on the emulator. `cargo xtask budgets` runs it.
//!
//! It reads any other cubin as well, and shows another's kernels beside ours.

mod beside;
mod emulated;
mod problems;
mod report;
mod rows;
mod table;

use std::env;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use rayon::prelude::*;
use sass::{Block, Gpu, Loop, Occupancy, Rates};
use serde::Serialize;
use warpfold::variants::{Tile, VARIANTS, Variant};

use emulated::Emulated;

#[derive(Parser)]
#[command(bin_name = "cargo xtask budgets", about = "What the kernels cost, seen in their machine code")]
struct Arguments {
    /// Only kernels whose name contains this
    name: Option<String>,
    /// Only machine code for this compute capability, as in 80 or 90
    #[arg(long, value_name = "NUMBER")]
    arch: Option<u32>,
    /// Read this file of machine code instead of the compiled kernels
    #[arg(long, value_name = "FILE", conflicts_with = "arch")]
    cubin: Option<PathBuf>,
    /// Show the kernels in this file of machine code beside ours for the same compute capability
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arch", "cubin"])]
    peer: Option<PathBuf>,
    /// Of those, only functions whose name contains this
    #[arg(long, value_name = "PART", requires = "peer")]
    peer_name: Option<String>,
    /// Also write everything to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run nothing on the emulator
    #[arg(long)]
    no_emulator: bool,
}

/// One function of machine code.
#[derive(Debug, Serialize)]
struct Kernel {
    name: String,
    /// The compute capability of the code.
    arch: u32,
    /// The GPU whose rates `loops` has.
    rates: &'static str,
    registers: Option<u32>,
    /// The table's budget; `None` for another's kernel.
    registers_max: Option<u32>,
    /// Loads and stores of local memory.
    local_accesses: usize,
    instructions: usize,
    /// The file that the code lies in, which several functions may share.
    image_bytes: usize,
    shared_static_bytes: u32,
    /// What a launch adds; not known of another's kernel, nor is what follows from it.
    shared_dynamic_bytes: Option<u32>,
    threads: Option<u32>,
    occupancy: Vec<Occupancy>,
    /// The innermost loops and those with tensor work.
    loops: Vec<Loop>,
    /// Where the main loop is among `loops`.
    main_loop: Option<usize>,
    /// Where the loop is that takes the most.
    masked_loop: Option<usize>,
    /// Of a kernel of ours that walks rows.
    rows: Option<rows::Accesses>,
}

impl Kernel {
    fn new(function: &sass::Function, arch: u32, image_bytes: usize, variant: Option<&Variant>) -> Kernel {
        let rates = if arch >= 90 { Rates::H100 } else { Rates::A100 };
        let mut loops = sass::loops(function, &rates);
        loops.retain(|found| found.is_innermost || found.tensor_instructions > 0);
        let place_of = |wanted: Option<&Loop>| {
            let first = wanted?.first;
            loops.iter().position(|found| found.first == first && found.is_innermost_tensor)
        };
        let (main_loop, masked_loop) = (place_of(sass::main_loop(&loops)), place_of(sass::costliest_loop(&loops)));
        let occupancy = match (variant, function.registers) {
            (Some(variant), Some(registers)) => {
                let shared_bytes = function.shared_static_bytes + variant.shared_bytes();
                let block = Block { threads: variant.threads(), registers, shared_bytes };
                Gpu::ALL.iter().filter(|gpu| gpu.code == arch).map(|gpu| Occupancy::of(&block, gpu)).collect()
            }
            _ => Vec::new(),
        };
        Kernel {
            name: function.name.clone(),
            arch,
            rates: rates.gpu,
            registers: function.registers,
            registers_max: variant.map(|variant| variant.budget.registers),
            local_accesses: function.local_accesses(),
            instructions: function.instructions.len(),
            image_bytes,
            shared_static_bytes: function.shared_static_bytes,
            shared_dynamic_bytes: variant.map(Variant::shared_bytes),
            threads: variant.map(Variant::threads),
            occupancy,
            main_loop,
            masked_loop,
            rows: variant
                .filter(|variant| {
                    matches!(variant.tile, Tile::Rows { .. } | Tile::WarpRows { .. } | Tile::Columns { .. })
                })
                .map(|_| rows::Accesses::of(function)),
            loops,
        }
    }
}

/// All that is found.
#[derive(Debug, Serialize)]
struct Findings {
    /// What made the machine code.
    compiler: Option<String>,
    kernels: Vec<Kernel>,
    emulated: Vec<Emulated>,
    /// Another's, that ours are shown beside.
    peers: Vec<Kernel>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let nvdisasm = find_nvdisasm()?;
    let findings = find(arguments, &nvdisasm)?;
    if findings.kernels.is_empty() {
        bail!("there is no such kernel");
    }
    if let Some(file) = &arguments.json {
        let mut writer = File::create(file).map(BufWriter::new).with_context(|| format!("{}", file.display()))?;
        serde_json::to_writer_pretty(&mut writer, &findings)?;
        writer.flush().with_context(|| format!("{}", file.display()))?;
    }
    let text = match findings.peers.is_empty() {
        true => report::text(&findings),
        false => beside::text(&findings.kernels, &findings.peers),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // `cargo xtask budgets | head` is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// What is asked for.
fn find(arguments: &Arguments, nvdisasm: &Path) -> Result<Findings> {
    let part_of = |part: &Option<String>, name: &str| part.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let is_wanted = |name: &str| part_of(&arguments.name, name);
    if let Some(file) = &arguments.cubin {
        let kernels = read_cubin(nvdisasm, file, is_wanted)?;
        return Ok(Findings { compiler: None, kernels, emulated: Vec::new(), peers: Vec::new() });
    }
    let variants: Vec<&Variant> = VARIANTS.iter().filter(|variant| is_wanted(&variant.name())).collect();
    let mut findings = Findings {
        compiler: Some(warpfold::kernel_compiler().to_string()),
        kernels: Vec::new(),
        emulated: Vec::new(),
        peers: Vec::new(),
    };
    if let Some(file) = &arguments.peer {
        findings.peers = read_cubin(nvdisasm, file, |name| part_of(&arguments.peer_name, name))?;
        let arch = findings.peers.first().map(|peer| peer.arch);
        let arch = arch.with_context(|| format!("{} has no such function", file.display()))?;
        findings.kernels = read_variants(nvdisasm, &variants, Some(arch))?;
        return Ok(findings);
    }
    findings.kernels = read_variants(nvdisasm, &variants, arguments.arch)?;
    if !arguments.no_emulator {
        findings.emulated = variants.par_iter().map(|variant| emulated::measure(variant)).collect();
    }
    Ok(findings)
}

/// The compiled kernels of the table.
fn read_variants(nvdisasm: &Path, variants: &[&Variant], arch: Option<u32>) -> Result<Vec<Kernel>> {
    let kernels = warpfold::kernels();
    if kernels.is_empty() {
        bail!("this build has no kernels: `cargo xtask toolkit` installs their compiler");
    }
    let mut images = Vec::new();
    for &variant in variants {
        let name = variant.name();
        let kernel = kernels.iter().find(|kernel| kernel.name == name);
        let kernel = kernel.with_context(|| format!("this build has no kernel {name}"))?;
        let archs = kernel.architectures.iter().filter(|found| arch.is_none_or(|wanted| wanted == **found));
        images.extend(archs.map(|&arch| (variant, arch)));
    }
    if images.is_empty() && !variants.is_empty() {
        bail!("no kernel was compiled for that architecture; WARPFOLD_CUDA_ARCHS selects them");
    }
    images
        .par_iter()
        .map(|&(variant, arch)| {
            let name = variant.name();
            let file = env::temp_dir().join(format!("warpfold-budgets-{}-{name}-{arch}.cubin", std::process::id()));
            let image = warpfold::cuda::image(&name, arch)?;
            fs::write(&file, &image).with_context(|| format!("{}", file.display()))?;
            let listing = disassemble(nvdisasm, &file);
            fs::remove_file(&file).with_context(|| format!("{}", file.display()))?;
            let functions = sass::functions(&listing?);
            let function = functions.iter().find(|function| function.name == name);
            let function = function.with_context(|| format!("the image has no {name}"))?;
            Ok(Kernel::new(function, arch, image.len(), Some(variant)))
        })
        .collect()
}

/// The kernels in a file.
fn read_cubin(nvdisasm: &Path, file: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Kernel>> {
    let listing = disassemble(nvdisasm, file)?;
    let arch = listing.lines().find_map(|line| {
        let name = line.trim().strip_prefix(".target")?.trim().strip_prefix("sm_")?;
        name.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
    });
    let arch = arch.with_context(|| format!("nvdisasm names no target of {}", file.display()))?;
    let functions = sass::functions(&listing);
    let wanted = functions.iter().filter(|function| is_wanted(&function.name) && !function.instructions.is_empty());
    let image_bytes = fs::metadata(file)?.len() as usize;
    Ok(wanted.map(|function| Kernel::new(function, arch, image_bytes, None)).collect())
}

fn disassemble(nvdisasm: &Path, file: &Path) -> Result<String> {
    let output = Command::new(nvdisasm).arg(file).output().with_context(|| format!("{}", nvdisasm.display()))?;
    if !output.status.success() {
        bail!("nvdisasm {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("nvdisasm writes no UTF-8")
}

/// Where `cargo xtask toolkit` puts it, or in PATH.
fn find_nvdisasm() -> Result<PathBuf> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the crate lies in a workspace")?;
    let pinned = workspace.join("target/toolkit/nvidia/cu13/bin/nvdisasm");
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvdisasm"));
    let found = std::iter::once(pinned).chain(in_path).find(|file| file.is_file());
    found.context("there is no nvdisasm: `cargo xtask toolkit` installs it")
}
