//! `cargo xtask bindings`: src/params.rs from kernels/lib/params.h.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::pip;
use crate::progress;
use crate::workspace::{capture, cargo, root};

const HEADER: &str = "\
//! The kernels' parameters, as they lie in memory.
//!
//! Generated from kernels/lib/params.h by `cargo xtask bindings` (bindgen); the test run compares. Do not edit.
#![allow(missing_docs, clippy::unnecessary_operation, clippy::identity_op, rustdoc::broken_intra_doc_links)]

";

/// Writes `src/params.rs`, or with `check` fails where it differs from what would be written.
pub fn run(check: bool) -> Result<()> {
    let wheel = pip::LIBCLANG.install()?;
    let library = pip::find_file(&wheel, "libclang.so").context("the libclang package holds no libclang.so")?;
    let raw = progress::during("Reading kernels/lib/params.h with bindgen", |_| {
        let mut generator =
            cargo(["run", "--quiet", "--package", "xtask", "--features", "bindings", "--bin", "generate-params", "--"]);
        generator.arg("kernels/lib/params.h").env("LIBCLANG_PATH", library.parent().expect("a file has a folder"));
        Ok(String::from_utf8(capture(&mut generator)?.stdout)?)
    })?;
    let generated = format!("{HEADER}{}", documented(&formatted(&raw)?)?);

    let path = root().join("src/params.rs");
    let present = fs::read_to_string(&path).unwrap_or_default();
    if present == generated {
        println!("src/params.rs agrees with kernels/lib/params.h");
        return Ok(());
    }
    if check {
        let (present, generated): (Vec<_>, Vec<_>) = (present.lines().collect(), generated.lines().collect());
        let common = present.iter().zip(&generated).take_while(|(a, b)| a == b).count();
        bail!(
            "src/params.rs does not agree with kernels/lib/params.h: run `cargo xtask bindings`\n\
             first difference in line {} of {} (generated: {})\n- {}\n+ {}",
            common + 1,
            present.len(),
            generated.len(),
            present.get(common).unwrap_or(&"(end of file)"),
            generated.get(common).unwrap_or(&"(end of file)"),
        );
    }
    fs::write(&path, generated).context("cannot write src/params.rs")?;
    println!("src/params.rs written");
    Ok(())
}

/// The text as `cargo fmt` would leave it.
fn formatted(raw: &str) -> Result<String> {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start rustfmt: run `rustup component add rustfmt`")?;
    let text = raw.replace(" :: ", "::");
    // The child reads everything before it writes, so this cannot block.
    rustfmt.stdin.take().expect("stdin is piped").write_all(text.as_bytes())?;
    let output = rustfmt.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt refuses what bindgen wrote");
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// `#[doc = "text"]` as `/// text`, and an empty line before each struct.
fn documented(text: &str) -> Result<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        match line.trim_start().strip_prefix("#[doc = ").and_then(|rest| rest.strip_suffix(']')) {
            Some(literal) => {
                let doc: String = serde_json::from_str(literal).with_context(|| format!("odd comment {literal}"))?;
                if indent.is_empty() && !lines.is_empty() {
                    lines.push(String::new());
                }
                lines.extend(doc.lines().map(|doc_line| format!("{indent}/// {doc_line}").trim_end().to_string()));
            }
            None => lines.push(line.to_string()),
        }
    }
    lines.push(String::new());
    // The whole file allows these.
    lines.retain(|line| line != "#[allow(clippy::unnecessary_operation, clippy::identity_op)]");
    Ok(lines.join("\n"))
}
