//! PTX as text: with source positions for the emulator, and without them for GPUs. build.rs reads this file too, so it depends
//! on nothing.

/// Says which bytes of a vector load are used; PTX 8.3 and later know it.
const USED_BYTES: &str = ".pragma \"used_bytes_mask";

/// An embedded text without its source positions, and with `.version` lowered to `version` where it is newer.
pub fn for_gpu(text: &str, version: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(written) = trimmed.strip_prefix(".version ") {
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
