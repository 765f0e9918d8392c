//! One unit to its image: PTX once, then machine code from that very text for each architecture.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::{Compression, write::ZlibEncoder};

use super::cache::{self, Cache};
use super::toolkit::Toolkit;
use super::{Unit, ptx, text};

/// Counts the changes of what a cache entry holds.
const FORMAT: &str = "2";

/// Common to all kernels. A host compiler that is newer than nvcc knows is welcome: it only preprocesses.
const NVCC_FLAGS: [&str; 5] = ["-O3", "-std=c++17", "-ptx", "-lineinfo", "-allow-unsupported-compiler"];

const PTXAS_FLAGS: [&str; 2] = ["-O3", "-v"];

/// The file of an entry with the PTX for GPUs.
pub const GPU_PTX: &str = "ptx.z";
/// The file of an entry with the PTX that has source positions.
pub const ANNOTATED_PTX: &str = "annotated.ptx.z";
/// The file of an entry with what the compilers said.
const NOTES: &str = "notes.txt";

/// The file of an entry with the machine code for one architecture.
pub fn cubin_name(arch: &str) -> String {
    format!("sm_{arch}.cubin.z")
}

/// A compiled unit in the cache.
pub struct Image {
    /// The entry's name.
    pub name: String,
    /// Where its files are.
    pub folder: PathBuf,
    /// The files that it was made of, relative to the root.
    pub sources: Vec<PathBuf>,
    /// The architectures that it has machine code for.
    pub cubins: Vec<String>,
    /// Registers of a thread, for the first architecture.
    pub registers: u32,
    /// What nvcc warned of.
    pub warnings: Vec<String>,
    /// What ptxas noted and must not be: spills, local memory, serialised or changed instructions.
    pub complaints: Vec<String>,
}

/// Compiles the unit, unless the cache has it.
pub fn image(root: &Path, unit: &Unit, archs: &[String], toolkit: &Toolkit, cache: &Cache) -> Result<Image, String> {
    let named = |error: String| format!("kernel {} ({}): {error}", unit.entry, unit.source.display());
    let arguments = nvcc_arguments(unit);
    let sources = sources(root, unit).map_err(named)?;
    let mut parts: Vec<&[u8]> = vec![FORMAT.as_bytes(), toolkit.fingerprint.as_bytes(), unit.ptx_version.as_bytes()];
    parts.extend(arguments.iter().map(String::as_bytes));
    parts.extend(PTXAS_FLAGS.iter().map(|flag| flag.as_bytes()));
    parts.extend(archs.iter().map(String::as_bytes));
    for (path, content) in &sources {
        parts.extend([path.as_os_str().as_encoded_bytes(), content]);
    }
    let paths: Vec<PathBuf> = sources.iter().map(|(path, _)| path.clone()).collect();
    let job = Job { root, unit, arguments: &arguments, sources: &paths, archs, toolkit };
    let folder = cache.entry(&unit.entry, &cache::key(&parts), |folder| job.compile(folder)).map_err(named)?;
    let notes = fs::read_to_string(folder.join(NOTES)).map_err(|error| named(error.to_string()))?;
    let all = |kind: &str| notes.lines().filter_map(|line| line.strip_prefix(kind)).map(str::to_string).collect();
    let registers: Vec<String> = all("registers ");
    Ok(Image {
        name: unit.entry.clone(),
        registers: registers.first().and_then(|count| count.parse().ok()).unwrap_or(0),
        sources: paths,
        cubins: archs.to_vec(),
        warnings: all("warning "),
        complaints: all("complaint "),
        folder,
    })
}

fn nvcc_arguments(unit: &Unit) -> Vec<String> {
    let mut arguments: Vec<String> = NVCC_FLAGS.map(String::from).into();
    arguments.push(format!("-arch={}", unit.virtual_arch));
    arguments.extend(unit.include_dirs.iter().map(|folder| format!("-I{}", folder.display())));
    arguments.extend(unit.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
    arguments.push(unit.source.display().to_string());
    arguments
}

/// What a compilation needs, once it is clear that the cache does not have its result.
struct Job<'a> {
    root: &'a Path,
    unit: &'a Unit,
    arguments: &'a [String],
    sources: &'a [PathBuf],
    archs: &'a [String],
    toolkit: &'a Toolkit,
}

impl Job<'_> {
    /// Fills a cache entry.
    fn compile(&self, folder: &Path) -> Result<(), String> {
        let io = |error: std::io::Error| error.to_string();
        let text_path = folder.join("text.ptx");
        let mut nvcc = Command::new(&self.toolkit.nvcc);
        nvcc.current_dir(self.root).args(self.arguments).arg("-o").arg(&text_path);
        if let Some(host_compiler) = &self.toolkit.host_compiler {
            nvcc.arg("-ccbin").arg(host_compiler);
        }
        let said = checked(&mut nvcc)?;
        let mut notes: Vec<String> =
            said.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("warning {line}")).collect();

        let annotated = ptx::with_positions(&fs::read_to_string(&text_path).map_err(io)?, self.sources);
        let for_gpu = text::for_gpu(&annotated, self.unit.ptx_version);
        fs::write(&text_path, &for_gpu).map_err(io)?;
        fs::write(folder.join(ANNOTATED_PTX), compressed(annotated.as_bytes()).map_err(io)?).map_err(io)?;
        fs::write(folder.join(GPU_PTX), compressed(for_gpu.as_bytes()).map_err(io)?).map_err(io)?;

        // Where no selected architecture takes this code, its own one still says what the code costs.
        let own = [self.unit.virtual_arch.trim_start_matches("compute_").to_string()];
        for arch in if self.archs.is_empty() { &own[..] } else { self.archs } {
            let cubin_path = folder.join("code.cubin");
            let mut ptxas = Command::new(&self.toolkit.ptxas);
            ptxas.args(PTXAS_FLAGS).arg(format!("-arch=sm_{arch}")).arg(&text_path).arg("-o").arg(&cubin_path);
            notes.extend(ptxas_notes(&checked(&mut ptxas)?, arch)?);
            let code = fs::read(&cubin_path).map_err(io)?;
            fs::write(folder.join(cubin_name(arch)), compressed(&code).map_err(io)?).map_err(io)?;
            fs::remove_file(&cubin_path).map_err(io)?;
        }
        fs::remove_file(&text_path).map_err(io)?;
        fs::write(folder.join(NOTES), notes.join("\n")).map_err(io)
    }
}

/// What matters in the output of `ptxas -v`: registers, and whatever the code should not have.
fn ptxas_notes(said: &str, arch: &str) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    for line in said.lines() {
        // "ptxas info    : Used 168 registers, used 1 barriers, 400 bytes cmem[0]"
        if let Some(count) = line.split("Used ").nth(1).and_then(|rest| rest.split(" registers").next()) {
            notes.push(format!("registers {count}"));
        }
        // "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", and "8 bytes lmem" in the line above.
        for item in line.rsplit(": ").next().unwrap_or(line).split(',').map(str::trim) {
            let is_local =
                ["stack frame", "spill stores", "spill loads", "lmem"].iter().any(|what| item.ends_with(what));
            if is_local && !item.starts_with("0 bytes") {
                notes.push(format!("complaint sm_{arch}: {item}"));
            }
        }
        // C75xx: wgmma is serialised, a wait is injected, setmaxnreg is ignored. They come as information.
        let code = line.split("(C75").nth(1).is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()));
        if code || line.contains("warning") {
            notes.push(format!("complaint sm_{arch}: {line}"));
        }
    }
    match notes.iter().any(|note| note.starts_with("registers ")) {
        true => Ok(notes),
        false => Err(format!("ptxas -v does not say how many registers the kernel uses:\n{said}")),
    }
}

/// Runs a compiler; what it wrote, or an error with its command line and all that it wrote.
fn checked(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        command.output().map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))?;
    let said = [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat();
    if status.success() { Ok(said) } else { Err(format!("{command:?} failed ({status}):\n{said}")) }
}

/// The source and every file that it includes by `#include "..."`, with their contents.
fn sources(root: &Path, unit: &Unit) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let mut seen = BTreeSet::from([unit.source.clone()]);
    let mut open = vec![unit.source.clone()];
    let mut sources = Vec::new();
    while let Some(path) = open.pop() {
        let content = fs::read(root.join(&path)).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let text = String::from_utf8_lossy(&content);
        let names = text.lines().filter_map(|line| {
            line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start().strip_prefix('"')
        });
        for name in names.filter_map(|rest| rest.split('"').next()) {
            let beside = path.parent().map(Path::to_path_buf);
            let found = beside.iter().chain(&unit.include_dirs).map(|folder| folder.join(name));
            // What is not found here is the toolkit's, whose version is a part of the key.
            if let Some(found) = found.into_iter().find(|candidate| root.join(candidate).is_file())
                && seen.insert(found.clone())
            {
                open.push(found);
            }
        }
        sources.push((path, content));
    }
    sources.sort();
    Ok(sources)
}

fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}
