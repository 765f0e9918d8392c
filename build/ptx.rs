//! PTX as nvcc writes it, made short and the same on every machine.

use std::path::{Path, PathBuf};

/// The text without what neither the emulator nor a GPU reads, the names of inlined functions, the sections that hold them, and
/// comments, and with the paths in `.file` lines made relative: `kernels/...` for the sources, `cuda/...` for the toolkit's
/// headers.
pub fn with_positions(text: &str, sources: &[PathBuf]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_debug_section = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if in_debug_section {
            in_debug_section = trimmed != "}";
        } else if trimmed.starts_with(".section") && trimmed.contains(".debug_") {
            in_debug_section = true;
        } else if !trimmed.is_empty() && !trimmed.starts_with("//") {
            result.push_str(&relative(line, sources).or_else(|| nameless(line)).unwrap_or_else(|| line.to_string()));
            result.push('\n');
        }
    }
    result
}

/// A `.file` line with a path that is the same on every machine.
fn relative(line: &str, sources: &[PathBuf]) -> Option<String> {
    let (before, rest) = line.trim().strip_prefix(".file")?.split_once('"')?;
    let (path, after) = rest.split_once('"')?;
    let path = Path::new(path);
    let shown = match sources.iter().find(|source| path.ends_with(source)) {
        Some(source) => source.clone(),
        None => Path::new("cuda").join(path.file_name()?),
    };
    Some(format!("\t.file{before}\"{}\"{after}", shown.display()))
}

/// A `.loc` line of inlined code without the function's name.
fn nameless(line: &str) -> Option<String> {
    let (position, rest) = line.split_once(", function_name ")?;
    let (_, site) = rest.split_once(", ")?;
    Some(format!("{position}, {site}"))
}
