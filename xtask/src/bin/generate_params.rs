//! Prints the Rust twins of the structs in the C header that is named on the command line, as bindgen writes
//! them. `cargo xtask bindings` runs this with `LIBCLANG_PATH` set, formats the text and stores or compares it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

#[derive(Debug)]
struct PlainBytes;

impl ParseCallbacks for PlainBytes {
    fn add_derives(&self, _: &DeriveInfo<'_>) -> Vec<String> {
        vec!["bytemuck::Pod".into(), "bytemuck::Zeroable".into()]
    }

    /// A C comment's ` * ` at the start of each line is no part of its text.
    fn process_comment(&self, comment: &str) -> Option<String> {
        let lines = comment.lines().map(|line| line.trim().trim_start_matches("* "));
        Some(lines.collect::<Vec<_>>().join("\n"))
    }
}

fn main() -> Result<()> {
    let header: PathBuf = std::env::args_os().nth(1).context("usage: generate-params HEADER")?.into();
    let bindings = bindgen::Builder::default()
        .header(header.to_str().context("the header's path is not UTF-8")?)
        // The header's comments are ordinary ones; they become the structs' documentation.
        .clang_arg("-fparse-all-comments")
        .allowlist_type(".*Params|ElementType|RowStage")
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_partialeq(true)
        .layout_tests(true)
        .disable_header_comment()
        .formatter(bindgen::Formatter::None)
        .parse_callbacks(Box::new(PlainBytes))
        .generate()
        .with_context(|| format!("bindgen cannot read {}", header.display()))?;
    print!("{bindings}");
    Ok(())
}
