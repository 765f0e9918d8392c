//! From changed sources to PTX, with nvcc and a cache.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use warpfold::variants::Variant;

use crate::mutant::Sources;
use crate::{ptx, text};

/// As the library's own build compiles kernels for the emulator.
const NVCC_FLAGS: [&str; 5] = ["-O3", "-std=c++17", "-ptx", "-lineinfo", "-allow-unsupported-compiler"];

/// Counts the changes of what a cached text holds.
const FORMAT: u32 = 2;

/// nvcc, and a folder for sources and texts.
pub struct Compiler {
    folder: PathBuf,
    nvcc: &'static str,
    used: Mutex<BTreeSet<PathBuf>>,
}

/// What nvcc made of a source.
pub enum Compiled {
    /// The PTX with source positions.
    Ptx(String),
    /// The source is refused, and why.
    Refused(String),
}

impl Compiler {
    /// # Errors
    /// There was no CUDA compiler when this program was built.
    pub fn new(folder: PathBuf) -> Result<Compiler> {
        let Some(nvcc) = option_env!("MUTANTS_NVCC") else {
            bail!("{}", option_env!("MUTANTS_NO_NVCC").unwrap_or("no CUDA compiler was found"));
        };
        Ok(Compiler { folder, nvcc, used: Mutex::default() })
    }

    /// Compiles one kernel of these sources, unless the cache has it. No two threads may use one name.
    pub fn ptx(&self, name: &str, sources: &Sources, variant: &Variant) -> Result<Compiled> {
        let mut arguments: Vec<String> = NVCC_FLAGS.map(String::from).into();
        arguments.push(format!("-arch={}", variant.arch.virtual_name()));
        arguments.push("-Ikernels".to_string());
        arguments.extend(variant.defines().into_iter().map(|(name, value)| format!("-D{name}={value}")));
        arguments.push(Path::new("kernels").join(variant.source()).display().to_string());
        let key = {
            let mut hasher = DefaultHasher::new();
            (FORMAT, &arguments, sources, option_env!("MUTANTS_NVCC_FINGERPRINT")).hash(&mut hasher);
            hasher.finish()
        };
        let texts = self.folder.join("ptx");
        let kept = texts.join(format!("{}-{key:016x}.ptx", variant.name()));
        self.used.lock().expect("no thread panics with the lock").insert(kept.clone());
        if let Ok(text) = fs::read_to_string(&kept) {
            return Ok(Compiled::Ptx(text));
        }
        let folder = self.folder.join(name);
        write(&folder, sources).with_context(|| format!("cannot write {}", folder.display()))?;
        fs::create_dir_all(&texts)?;
        let partial = texts.join(format!(".{name}.{}.ptx", process::id()));
        let mut nvcc = Command::new(self.nvcc);
        nvcc.current_dir(&folder).args(&arguments).arg("-o").arg(&partial);
        if let Some(host_compiler) = option_env!("MUTANTS_HOST_COMPILER") {
            nvcc.args(["-ccbin", host_compiler]);
        }
        let output = nvcc.output().with_context(|| format!("cannot start {}", self.nvcc))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Ok(Compiled::Refused(String::from_utf8_lossy(&said).trim().to_string()));
        }
        let paths: Vec<PathBuf> = sources.keys().cloned().collect();
        let text = ptx::with_positions(&fs::read_to_string(&partial)?, &paths);
        fs::write(&partial, &text)?;
        fs::rename(&partial, &kept)?;
        Ok(Compiled::Ptx(text))
    }

    /// Removes the texts that no call asked for: those of sources that have changed since.
    pub fn forget_unused(&self) -> Result<()> {
        let used = self.used.lock().expect("no thread panics with the lock");
        for entry in fs::read_dir(self.folder.join("ptx"))? {
            let path = entry?.path();
            if !used.contains(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether two texts are one program, whatever their source positions.
pub fn is_same_code(a: &str, b: &str) -> bool {
    const NEWEST: &str = "99.9";
    text::for_gpu(a, NEWEST) == text::for_gpu(b, NEWEST)
}

fn write(folder: &Path, sources: &Sources) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    for (path, text) in sources {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder"))?;
        fs::write(path, text)?;
    }
    Ok(())
}
