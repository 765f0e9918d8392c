//! From CUDA C++ to embedded machine code: find nvcc, compile a list of units (or take them from the cache), and
//! write `images.rs` into `OUT_DIR` for the crate to include.
//!
//! The crate that includes it declares
//! `struct Image { name: &'static str, registers: u32, ptx: &'static [u8], cubins: &'static [(u32, &'static [u8])] }`; all
//! bytes are zlib streams. This module knows nothing of any kernel, so other crates of the workspace use it too.

mod cache;
mod compile;
mod ptx;
#[path = "../src/ptx.rs"]
mod text;
mod toolkit;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

use cache::Cache;
use compile::Image;
use toolkit::Toolkit;

/// The real architectures that `WARPFOLD_CUDA_ARCHS` may name.
const KNOWN_ARCHS: [&str; 7] = ["80", "86", "89", "90", "90a", "100", "120"];

/// The ones that it names where it is not set.
const DEFAULT_ARCHS: &str = "80,90,90a";

/// One kernel entry, compiled from one source with its own macros.
pub struct Unit {
    /// The `extern "C"` entry's name; the image is found by it.
    pub entry: String,
    /// The source, relative to the root.
    pub source: PathBuf,
    /// Folders for `#include "..."`, relative to the root.
    pub include_dirs: Vec<PathBuf>,
    /// Macros and their values.
    pub defines: Vec<(String, String)>,
    /// The virtual architecture: `compute_80`.
    pub virtual_arch: &'static str,
    /// The PTX version that the code needs; a newer one is lowered to it, so that older drivers take the text.
    pub ptx_version: &'static str,
}

/// What is to be built.
pub struct Project<'a> {
    /// The folder that sources are relative to, where nvcc runs.
    pub root: &'a Path,
    /// The folder with the pinned compiler that `cargo xtask toolkit` fills, where the workspace is checked out.
    pub pinned_toolkit: Option<PathBuf>,
    /// The kernels.
    pub units: &'a [Unit],
    /// Whether the PTX is embedded with its source positions, which the emulator reports and no GPU takes.
    pub with_positions: bool,
}

/// Compiles the project and writes `OUT_DIR/images.rs`. Without a compiler the table is empty and says why.
///
/// A wrong setting, and whatever the compiler says about a kernel that fails, is an error of the build.
pub fn build(project: &Project) {
    if let Err(error) = try_to_build(project) {
        // Cargo shows these lines and fails; an exit code would make it show the whole protocol as well.
        for line in error.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn try_to_build(project: &Project) -> Result<(), String> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    if variable("DOCS_RS").is_some() {
        return write_images(&out_dir, &[], Some("the documentation is built without kernels"), "", "");
    }
    let archs = selected_archs()?;
    let toolkit = match toolkit::find(project)? {
        Ok(toolkit) => toolkit,
        Err(reason) => {
            println!("cargo::warning={reason}");
            return write_images(&out_dir, &[], Some(&reason), "", "");
        }
    };
    let images = compile_all(project, &toolkit, &archs, &Cache::open(&out_dir))?;
    let sources: BTreeSet<&PathBuf> = images.iter().flat_map(|image| &image.sources).collect();
    for source in sources {
        println!("cargo::rerun-if-changed={}", project.root.join(source).display());
    }
    report(&images)?;
    let ptx = if project.with_positions { compile::ANNOTATED_PTX } else { compile::GPU_PTX };
    write_images(&out_dir, &images, None, &toolkit.version, ptx)
}

/// An environment variable that cargo shall watch; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn selected_archs() -> Result<Vec<String>, String> {
    let selected = variable("WARPFOLD_CUDA_ARCHS").unwrap_or_else(|| DEFAULT_ARCHS.to_string());
    let mut archs: Vec<String> = selected.split(',').map(|arch| arch.trim().to_string()).collect();
    if let Some(unknown) = archs.iter().find(|arch| !KNOWN_ARCHS.contains(&arch.as_str())) {
        return Err(format!(
            "WARPFOLD_CUDA_ARCHS={selected}: \"{unknown}\" is not known; known are {} (default {DEFAULT_ARCHS})",
            KNOWN_ARCHS.join(", ")
        ));
    }
    // In the order of the list of known ones, each once.
    archs.sort_by_key(|arch| KNOWN_ARCHS.iter().position(|known| known == arch));
    archs.dedup();
    Ok(archs)
}

/// The architectures to assemble PTX of a virtual one for. Baseline code runs on every later GPU, where an `a` adds
/// nothing: it is assembled for those that are selected by number. Code for `compute_90a` runs on sm_90a only, which `90`
/// selects as well as `90a`: one GPU runs both.
fn archs_of(virtual_arch: &str, selected: &[String]) -> Vec<String> {
    let own = virtual_arch.trim_start_matches("compute_");
    match own.strip_suffix('a') {
        Some(number) => {
            let is_selected = selected.iter().any(|arch| arch == own || arch == number);
            is_selected.then(|| own.to_string()).into_iter().collect()
        }
        None => {
            let number = |arch: &str| arch.parse::<u32>().ok();
            let fits = |arch: &&String| number(arch).zip(number(own)).is_some_and(|(arch, lowest)| arch >= lowest);
            selected.iter().filter(fits).cloned().collect()
        }
    }
}

/// Compiles on as many threads as cargo grants jobs. After a failure no further unit is begun.
fn compile_all(project: &Project, toolkit: &Toolkit, archs: &[String], cache: &Cache) -> Result<Vec<Image>, String> {
    let num_threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).max(1);
    let queue = Mutex::new(project.units.iter());
    let finished = Mutex::new(Vec::with_capacity(project.units.len()));
    let failures = Mutex::new(Vec::new());
    let worker = || {
        while failures.lock().is_ok_and(|failures| failures.is_empty()) {
            let Some(unit) = queue.lock().ok().and_then(|mut queue| queue.next()) else { return };
            let archs = archs_of(unit.virtual_arch, archs);
            match compile::image(project.root, unit, &archs, toolkit, cache) {
                Ok(image) => finished.lock().expect("no worker panics").push(image),
                Err(failure) => failures.lock().expect("no worker panics").push(failure),
            }
        }
    };
    thread::scope(|scope| (0..num_threads).for_each(|_| drop(scope.spawn(worker))));
    let failures = failures.into_inner().expect("no worker panics");
    if !failures.is_empty() {
        return Err(failures.join("\n\n"));
    }
    let mut images = finished.into_inner().expect("no worker panics");
    images.sort_by_key(|image| project.units.iter().position(|unit| unit.entry == image.name));
    Ok(images)
}

/// Passes on what the compilers said about the kernels. Notes that mean slow or changed code are errors.
fn report(images: &[Image]) -> Result<(), String> {
    let mut errors = Vec::new();
    for image in images {
        for warning in &image.warnings {
            println!("cargo::warning={}: {warning}", image.name);
        }
        if image.complaints.is_empty() {
            continue;
        }
        let said = format!("kernel {}: ptxas says: {}", image.name, image.complaints.join("; "));
        let only_local_memory = image.complaints.iter().all(|complaint| complaint.contains(" bytes "));
        if only_local_memory && variable("WARPFOLD_ALLOW_SPILLS").is_some_and(|value| value == "1") {
            println!("cargo::warning={said}");
        } else {
            errors.push(said);
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n(for experiments, WARPFOLD_ALLOW_SPILLS=1 makes spills a warning)", errors.join("\n")))
}

fn write_images(
    out_dir: &Path,
    images: &[Image],
    not_built: Option<&str>,
    compiler: &str,
    ptx: &str,
) -> Result<(), String> {
    let folder = out_dir.join("images");
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    // The crate includes copies, so that a cache that is emptied later breaks nothing.
    let embed = |image: &Image, part: &str| -> Result<String, String> {
        let path = folder.join(format!("{}.{part}", image.name));
        fs::copy(image.folder.join(part), &path).map_err(failed)?;
        Ok(format!("include_bytes!({path:?})"))
    };

    let mut rows = String::new();
    for image in images {
        let mut cubins = String::new();
        for arch in &image.cubins {
            let capability = arch.trim_end_matches('a');
            write!(cubins, "({capability}, {}), ", embed(image, &compile::cubin_name(arch))?).expect("to a string");
        }
        writeln!(
            rows,
            "    Image {{ name: {:?}, registers: {}, ptx: {}, cubins: &[{cubins}] }},",
            image.name,
            image.registers,
            embed(image, ptx)?,
        )
        .expect("to a string");
    }
    let text = format!(
        "#[allow(dead_code)]\npub(crate) const IMAGES: &[Image] = &[\n{rows}];\n\
         #[allow(dead_code)]\npub(crate) const NOT_BUILT: Option<&str> = {not_built:?};\n\
         #[allow(dead_code)]\npub(crate) const COMPILER: &str = {compiler:?};\n"
    );
    fs::write(out_dir.join("images.rs"), text).map_err(failed)
}
