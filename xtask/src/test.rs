//! `cargo xtask test`: everything that has to hold before a change goes in.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::workspace::{cargo, run as run_command, typed};
use crate::{bindings, demo, mutants, progress, python, tables};

/// Runs every check, also after one failed, and ends with a table.
fn run_all(mut steps: Vec<Step>) -> Result<()> {
    let start = Instant::now();
    let mut rows: Vec<(&str, bool, Duration)> = Vec::new();
    for step in &mut steps {
        println!("\n== {}", step.name);
        let step_start = Instant::now();
        let outcome = (step.work)();
        let time = step_start.elapsed();
        if let Err(error) = &outcome {
            println!("error: {error:#}");
        }
        println!("== {}: {} in {}", step.name, word(outcome.is_ok()), progress::seconds(time));
        rows.push((step.name, outcome.is_ok(), time));
        if outcome.is_err() && step.is_needed_by_the_rest {
            break;
        }
    }

    println!("\nSummary");
    for (name, passed, time) in &rows {
        println!("  {:<6} {:>13}  {name}", word(*passed), progress::seconds(*time));
    }
    for step in &steps[rows.len()..] {
        println!("  {:<6} {:>13}  {}", "not run", "", step.name);
    }
    println!("  {:<6} {:>13}  in all", "", progress::seconds(start.elapsed()));
    let failed: Vec<&str> = rows.iter().filter(|row| !row.1).map(|row| row.0).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// One check.
struct Step {
    name: &'static str,
    /// Whether the steps after it make no sense without it.
    is_needed_by_the_rest: bool,
    work: Box<dyn FnMut() -> Result<()>>,
}

impl Step {
    fn setup(name: &'static str, work: impl FnMut() -> Result<()> + 'static) -> Step {
        Step { name, is_needed_by_the_rest: true, work: Box::new(work) }
    }

    fn check(name: &'static str, work: impl FnMut() -> Result<()> + 'static) -> Step {
        Step { name, is_needed_by_the_rest: false, work: Box::new(work) }
    }

    /// A check that is one cargo command.
    fn cargo(name: &'static str, arguments: &'static [&'static str], variables: &'static [(&str, &str)]) -> Step {
        Step::check(name, move || {
            let mut command = cargo(arguments);
            command.envs(variables.iter().copied());
            println!("$ {}", typed(&command));
            run_command(&mut command)
        })
    }
}

#[derive(Args)]
pub struct Test {
    /// Only the checks whose names contain this, such as Python; what they need is set up all the same
    #[arg(long)]
    only: Option<String>,
}

impl Test {
    /// Runs the checks.
    pub fn run(&self) -> Result<()> {
        let mut steps = steps();
        if let Some(only) = &self.only {
            steps.retain(|step| step.is_needed_by_the_rest || step.name.contains(only));
            if steps.iter().all(|step| step.is_needed_by_the_rest) {
                bail!("no check has a name that contains \"{only}\"");
            }
        }
        run_all(steps)
    }
}

fn steps() -> Vec<Step> {
    vec![
        Step::setup("CUDA compiler", crate::toolkit),
        Step::setup("model", || demo::model().map(drop)),
        Step::check("bindings", || bindings::run(true)),
        Step::cargo("format", &["fmt", "--all", "--check"], &[]),
        Step::check("kernels", || {
            let compiler = kernel_compiler(&["check", "--package", "warpfold", "--all-features"])?;
            println!("All kernels are compiled, by {compiler}");
            Ok(())
        }),
        Step::cargo(
            "lints",
            &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
            &[],
        ),
        Step::cargo(
            "documentation",
            &["doc", "--workspace", "--no-deps", "--all-features"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        ),
        Step::cargo("tests", &["test", "--workspace", "--all-features", "--no-fail-fast"], &[]),
        // After the tests, which have built the program that draws.
        Step::check("tables", || tables::Tables::checking().run()),
        Step::check("Python, with NumPy", python::test_with_numpy),
        Step::check("Python, with PyTorch", python::test_with_pytorch),
        Step::check("mutants", || mutants::Mutants::fast().run()),
        Step::cargo(
            "tests without CUDA",
            &["test", "--package", "warpfold", "--no-default-features", "--lib", "--test", "contract"],
            &[],
        ),
    ]
}

fn word(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

/// Builds warpfold with this cargo command and returns the compiler that its kernels were built with.
///
/// # Errors
/// The build fails, or it holds no kernels.
pub fn kernel_compiler(arguments: &[&str]) -> Result<String> {
    compiler_of(&cargo_messages(arguments, &[])?)
}

/// The compiler that the kernels were built with, by what cargo said while it built warpfold.
pub fn compiler_of(messages: &[Value]) -> Result<String> {
    for message in messages {
        let is_warpfold = message["package_id"].as_str().is_some_and(|id| package_name(id) == "warpfold");
        if message["reason"] == "build-script-executed" && is_warpfold {
            let out_dir = message["out_dir"].as_str().context("cargo names no out_dir")?;
            return compiler_in(Path::new(out_dir));
        }
    }
    bail!("cargo did not build warpfold");
}

/// The name in cargo's package id: `path+file:///folder#name@0.1.0`, or `path+file:///.../name#0.1.0`.
pub fn package_name(id: &str) -> &str {
    let (place, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    }
}

/// Runs a cargo command that reports in JSON, with these variables, and returns its messages; diagnostics go to the terminal.
pub fn cargo_messages(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Vec<Value>> {
    let mut command = cargo(arguments);
    command.envs(variables.iter().copied()).arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    println!("$ {}", typed(&command));
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`{}` failed ({})", typed(&command), output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("odd message of cargo: {line}")))
        .collect()
}

/// Reads what the build script left about its compiler.
fn compiler_in(out_dir: &Path) -> Result<String> {
    let text = fs::read_to_string(out_dir.join("images.rs")).context("the build script left no images.rs")?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.contains(&format!(" {name}: ")))?;
        line.split_once(" = ").map(|(_, value)| value.trim_end_matches(';').to_string())
    };
    match value("NOT_BUILT").as_deref() {
        Some("None") => Ok(value("COMPILER").unwrap_or_default().trim_matches('"').to_string()),
        Some(reason) => bail!("the kernels were not compiled: {reason}"),
        None => bail!("images.rs does not say whether the kernels were compiled"),
    }
}
