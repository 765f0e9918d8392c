//! Compiled kernels, kept outside cargo's profiles so that debug, release, clippy and documentation builds share
//! them. An entry is a folder named by what went into it; it appears in one step, so concurrent builds are safe.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, process};

use super::variable;

/// The folder of all entries.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `WARPFOLD_CACHE_DIR`, or `warpfold-kernels` in cargo's target folder.
    pub fn open(out_dir: &Path) -> Cache {
        let named = variable("WARPFOLD_CACHE_DIR").map(PathBuf::from);
        Cache { folder: named.unwrap_or_else(|| target_root(out_dir).join("warpfold-kernels")) }
    }

    /// The entry's folder, filled now if there is none yet.
    pub fn entry(
        &self,
        name: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let entry = self.folder.join(format!("{name}-{key}"));
        if entry.is_dir() {
            return Ok(entry);
        }
        // One name for each process; within a process no two threads fill the same entry.
        let partial = self.folder.join(format!(".{name}-{key}.{}", process::id()));
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", partial.display());
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(failed)?;
        }
        fs::create_dir_all(&partial).map_err(failed)?;
        let filled = fill(&partial);
        if filled.is_ok() {
            match fs::rename(&partial, &entry) {
                Ok(()) => return Ok(entry),
                // Another build was first, with the same content.
                Err(_) if entry.is_dir() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        fs::remove_dir_all(&partial).map_err(failed)?;
        filled.map(|()| entry)
    }
}

/// Cargo marks its target folder with CACHEDIR.TAG; `OUT_DIR` is somewhere below.
fn target_root(out_dir: &Path) -> PathBuf {
    let tagged = out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    // Otherwise: target/<profile>/build/<package>/out.
    tagged.or(out_dir.ancestors().nth(4)).unwrap_or(out_dir).to_path_buf()
}

/// 128 bits that name the parts; the lengths are hashed too, so the division into parts counts.
pub fn key(parts: &[&[u8]]) -> String {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, parts).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(0), half(1))
}
