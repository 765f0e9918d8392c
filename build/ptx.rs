//! PTX as text: with source positions for the emulator, and without them for GPUs.

use std::path::{Path, PathBuf};

/// The text with the paths in `.file` lines made relative, so that it is the same on every machine: `kernels/...`
/// for the sources, `cuda/...` for the toolkit's headers.
pub fn with_relative_paths(text: &str, sources: &[PathBuf]) -> String {
    let relative = |line: &str| -> Option<String> {
        let (before, rest) = line.trim().strip_prefix(".file")?.split_once('"')?;
        let (path, after) = rest.split_once('"')?;
        let path = Path::new(path);
        let shown = match sources.iter().find(|source| path.ends_with(source)) {
            Some(source) => source.clone(),
            None => Path::new("cuda").join(path.file_name()?),
        };
        Some(format!("\t.file{before}\"{}\"{after}", shown.display()))
    };
    let lines = text.lines().map(|line| relative(line).unwrap_or_else(|| line.to_string()) + "\n");
    lines.collect()
}

/// Says which bytes of a vector load are used; PTX 8.3 and later know it.
const USED_BYTES: &str = ".pragma \"used_bytes_mask";

/// The text that nvcc writes without `-lineinfo`, with `.version` lowered to `version` where it is newer.
pub fn for_gpu(text: &str, version: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_debug_section = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if in_debug_section {
            in_debug_section = trimmed != "}";
        } else if trimmed.starts_with(".section") && trimmed.contains(".debug_") {
            in_debug_section = true;
        } else if let Some(written) = trimmed.strip_prefix(".version ") {
            let lower = if number(written) > number(version) { version } else { written };
            result.push_str(&format!(".version {lower}\n"));
        } else if trimmed.starts_with(USED_BYTES) && number(version) < (8, 3) {
            // A hint about the next load, which says the same without it.
        } else if !matches!(trimmed.split_whitespace().next(), Some(".loc" | ".file")) {
            result.push_str(line);
            result.push('\n');
        }
    }
    result
}

/// `9.0` as (9, 0).
fn number(version: &str) -> (u32, u32) {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    (major.trim().parse().unwrap_or(0), minor.trim().parse().unwrap_or(0))
}
