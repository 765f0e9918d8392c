//! Finds nvcc, ptxas and the host compiler.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{env, io};

use super::{Project, variable};

/// The compilers.
pub struct Toolkit {
    /// CUDA C++ to PTX.
    pub nvcc: PathBuf,
    /// PTX to machine code.
    pub ptxas: PathBuf,
    /// The C++ compiler that nvcc preprocesses with; `None` where `NVCC_CCBIN` names it.
    pub host_compiler: Option<PathBuf>,
    /// `nvcc 13.0.88`.
    pub version: String,
    /// All that the compilers say about their versions: a part of the cache's key.
    pub fingerprint: String,
}

/// The compilers, or the reason with the cure where there are none.
///
/// # Errors
/// A variable that is set but wrong, or an nvcc that does not run.
pub fn find(project: &Project) -> Result<Result<Toolkit, String>, String> {
    let Some(nvcc) = find_nvcc(project.pinned_toolkit.as_deref())? else {
        return Ok(Err(no_nvcc(project.pinned_toolkit.is_some())));
    };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let ptxas = find_ptxas(&nvcc)?;
    let (host_compiler, host_version) = match variable("NVCC_CCBIN") {
        Some(named_for_nvcc) => (None, named_for_nvcc),
        None => match find_host_compiler() {
            Ok((path, version)) => (Some(path), version),
            Err(reason) => return Ok(Err(reason)),
        },
    };
    let nvcc_says = says_version(&nvcc).map_err(|error| format!("{} --version: {error}", nvcc.display()))?;
    let ptxas_says = says_version(&ptxas).map_err(|error| format!("{} --version: {error}", ptxas.display()))?;
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let version = nvcc_says.split_whitespace().find_map(|word| word.strip_prefix('V')).unwrap_or("of unknown version");
    Ok(Ok(Toolkit {
        version: format!("nvcc {version}"),
        fingerprint: [nvcc_says.as_str(), ptxas_says.as_str(), host_version.as_str()].join("\n"),
        nvcc,
        ptxas,
        host_compiler,
    }))
}

fn find_nvcc(pinned_toolkit: Option<&Path>) -> Result<Option<PathBuf>, String> {
    if let Some(named) = variable("NVCC") {
        let found = if named.contains('/') { is_file(PathBuf::from(&named)) } else { in_path(&named) };
        return found.map(Some).ok_or(format!("NVCC={named}: there is no such file"));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(folder) = variable(name) {
            let nvcc = Path::new(&folder).join("bin/nvcc");
            return match is_file(nvcc.clone()) {
                Some(nvcc) => Ok(Some(nvcc)),
                None => Err(format!("{name}={folder}: there is no {} (unset {name} to search on)", nvcc.display())),
            };
        }
    }
    let found = in_path("nvcc")
        .or_else(|| is_file(PathBuf::from("/usr/local/cuda/bin/nvcc")))
        .or_else(|| variable("VIRTUAL_ENV").and_then(|folder| in_virtual_environment(Path::new(&folder))));
    if found.is_some() {
        return Ok(found);
    }
    let Some(pinned_toolkit) = pinned_toolkit else { return Ok(None) };
    if let Err(error) = watch(&pinned_toolkit.join("stamp.txt")) {
        println!("cargo::warning=cannot watch {}: {error}", pinned_toolkit.display());
    }
    Ok(is_file(pinned_toolkit.join("nvidia/cu13/bin/nvcc")))
}

/// Lets cargo run the build script again when the file changes. Cargo takes a file that is missing for one that
/// changes always, so that every build would compile the crate anew: an empty, old one stands in.
fn watch(stamp: &Path) -> io::Result<()> {
    if !stamp.exists() {
        fs::create_dir_all(stamp.parent().unwrap_or(Path::new(".")))?;
        File::create_new(stamp)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400))?;
    }
    println!("cargo::rerun-if-changed={}", stamp.display());
    Ok(())
}

fn is_file(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let folders = variable("PATH")?;
    env::split_paths(&folders).find_map(|folder| is_file(folder.join(program)))
}

/// Where pip puts the compiler in a virtual environment.
fn in_virtual_environment(folder: &Path) -> Option<PathBuf> {
    let mut pythons: Vec<PathBuf> =
        fs::read_dir(folder.join("lib")).ok()?.flatten().map(|entry| entry.path()).collect();
    pythons.sort();
    pythons.into_iter().find_map(|python| is_file(python.join("site-packages/nvidia/cu13/bin/nvcc")))
}

/// ptxas lies beside nvcc, or where nvcc really lies, or in PATH.
fn find_ptxas(nvcc: &Path) -> Result<PathBuf, String> {
    let beside = |nvcc: PathBuf| is_file(nvcc.with_file_name("ptxas"));
    beside(nvcc.to_path_buf())
        .or_else(|| beside(nvcc.canonicalize().ok()?))
        .or_else(|| in_path("ptxas"))
        .ok_or(format!("{} has no ptxas beside it: the CUDA toolkit is incomplete", nvcc.display()))
}

/// The C++ compiler that builds for this machine, whatever the crate is built for.
fn find_host_compiler() -> Result<(PathBuf, String), String> {
    let host = env::var("HOST").unwrap_or_default();
    let missing = |detail: String| {
        format!(
            "nvcc needs a C++ compiler ({detail}), so {} is built without CUDA kernels. \
             Install g++ (Debian and Ubuntu: apt install g++) or name one in CXX or NVCC_CCBIN.",
            crate_name()
        )
    };
    let compiler =
        cc::Build::new().cargo_warnings(false).cpp(true).opt_level(0).host(&host).target(&host).try_get_compiler();
    let path = compiler.map_err(|error| missing(error.to_string()))?.path().to_path_buf();
    let version = says_version(&path).map_err(|error| missing(format!("{}: {error}", path.display())))?;
    Ok((path, version))
}

fn says_version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_string()),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn crate_name() -> String {
    env::var("CARGO_PKG_NAME").unwrap_or_default()
}

fn no_nvcc(in_workspace: bool) -> String {
    let cure = if in_workspace {
        "Run `cargo xtask toolkit` (it needs Python 3 with pip, and downloads 110 MB) and build again"
    } else {
        "Run `python3 -m pip install --no-deps --target DIR nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 \
         nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85`, \
         set CUDA_HOME=DIR/nvidia/cu13 and build again"
    };
    format!(
        "no CUDA compiler was found, so {} is built without CUDA kernels. {cure}; \
         or install the CUDA toolkit and set CUDA_HOME. \
         Looked at: NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, VIRTUAL_ENV.",
        crate_name()
    )
}
