//! The README's plots: what `warpfold plot` draws of a record, in docs/.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::test::cargo_messages;
use crate::workspace::{capture, target};

/// What the files of a CPU's plots begin with; others in docs/ belong to nobody here.
const PREFIX: &str = "cpu_";

/// A file in docs/.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    pub name: String,
    pub svg: String,
}

impl Plot {
    /// For those who do not see it.
    pub fn title(&self) -> String {
        let words = self.name.trim_start_matches(PREFIX).trim_end_matches(".svg").replace('_', " ");
        let mut letters = words.chars();
        let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
        format!("{first}{}", letters.as_str())
    }
}

/// Builds the program and lets it draw the record of this path.
pub fn draw(record: &Path) -> Result<Vec<Plot>> {
    let folder = target().join("tables");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    let mut program = std::process::Command::new(program()?);
    capture(program.arg("plot").arg(record).arg("--out").arg(&folder).args(["--format", "svg"]))?;
    collect(&folder)
}

/// The program, as the test run builds it for the tests of its plots: by any other command cargo would build most of it once more.
fn program() -> Result<PathBuf> {
    let arguments = ["test", "--no-run", "--quiet", "--workspace", "--all-features", "--test", "plot_command"];
    let messages = cargo_messages(&arguments, &[])?;
    let is_it = |message: &&serde_json::Value| {
        message["reason"] == "compiler-artifact"
            && message["target"]["name"] == "warpfold"
            && message["target"]["kind"][0] == "bin"
            && message["executable"].is_string()
    };
    let found = messages.iter().find(is_it).and_then(|message| message["executable"].as_str());
    Ok(PathBuf::from(found.context("cargo names no program warpfold")?))
}

/// Rooflines first, then what moves bytes, then sizes.
fn collect(folder: &Path) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        plots.push(Plot { name: format!("{PREFIX}{name}"), svg: fs::read_to_string(&path)? });
    }
    let rank = |plot: &Plot| match plot.title().as_str() {
        "Roofline" => 0,
        "Bandwidth" => 1,
        _ => 2,
    };
    plots.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
    Ok(plots)
}

/// What of the plots in `docs` is out of step, in words.
pub fn differences(docs: &Path, plots: &[Plot]) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for plot in plots {
        match fs::read_to_string(docs.join(&plot.name)) {
            Err(_) => differences.push(format!("docs/{}: missing", plot.name)),
            Ok(present) if present != plot.svg => {
                let common = present.lines().zip(plot.svg.lines()).take_while(|(a, b)| a == b).count();
                differences.push(format!("docs/{}, line {}: not what the record gives", plot.name, common + 1));
            }
            Ok(_) => (),
        }
    }
    differences.extend(stale(docs, plots)?.iter().map(|name| format!("docs/{name}: no record gives it any more")));
    Ok(differences)
}

/// Writes the plots and removes those that nothing gives any more.
pub fn write(docs: &Path, plots: &[Plot]) -> Result<()> {
    for plot in plots {
        let path = docs.join(&plot.name);
        if fs::read_to_string(&path).is_ok_and(|present| present == plot.svg) {
            continue;
        }
        fs::write(&path, &plot.svg).with_context(|| format!("cannot write {}", path.display()))?;
        println!("docs/{} written", plot.name);
    }
    for name in stale(docs, plots)? {
        fs::remove_file(docs.join(&name)).with_context(|| format!("cannot remove docs/{name}"))?;
        println!("docs/{name} removed");
    }
    Ok(())
}

fn stale(docs: &Path, plots: &[Plot]) -> Result<Vec<String>> {
    if !docs.is_dir() {
        bail!("{} is no folder", docs.display());
    }
    let mut stale = Vec::new();
    for entry in fs::read_dir(docs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && name.ends_with(".svg") && !plots.iter().any(|plot| plot.name == name) {
            stale.push(name);
        }
    }
    stale.sort();
    Ok(stale)
}
