//! `warpfold plot`: pictures of records.

mod axis;
mod bandwidth;
mod labels;
mod page;
mod record;
mod roofline;
mod scene;
mod style;
mod sweeps;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use self::record::{Record, Source};
use self::scene::Scene;
use crate::Outcome;

#[derive(Args)]
pub struct Plot {
    /// Records that `warpfold bench` wrote; several are drawn together
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the pictures go
    #[arg(long, value_name = "FOLDER", default_value = "plots")]
    out: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Both)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Svg,
    Png,
    Both,
}

impl Plot {
    pub fn run(&self) -> anyhow::Result<Outcome> {
        let records = self.files.iter().map(|path| Record::read(path)).collect::<anyhow::Result<Vec<Record>>>()?;
        let sources = record::sources(&records);
        if sources.len() > style::FILLS.len() {
            let names: Vec<&str> = sources.iter().map(|source| source.short.as_str()).collect();
            let (many, most) = (sources.len(), style::FILLS.len());
            bail!(
                "{many} devices and dates in these files, of which a picture tells {most} apart: {}",
                names.join("; ")
            );
        }
        let pictures = pictures(&sources);
        if pictures.is_empty() {
            let names: Vec<String> = self.files.iter().map(|path| path.display().to_string()).collect();
            bail!("nothing to draw: no operation with a time in {}", names.join(", "));
        }
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder {}", self.out.display()))?;
        for (name, scene) in &pictures {
            if self.format != Format::Png {
                let path = self.path(name, "svg");
                fs::write(&path, scene.svg()?).with_context(|| format!("cannot write {}", path.display()))?;
                println!("{}", path.display());
            }
            if self.format != Format::Svg {
                let path = self.path(name, "png");
                scene.write_png(&path)?;
                println!("{}", path.display());
            }
        }
        Ok(Outcome::Success)
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.out.join(Path::new(name).with_extension(extension))
    }
}

/// All that these measurements can show, by the names of the files.
fn pictures(sources: &[Source]) -> Vec<(String, Scene)> {
    let mut pictures = Vec::new();
    pictures.extend(roofline::picture(sources).map(|scene| ("roofline".to_string(), scene)));
    pictures.extend(bandwidth::picture(sources).map(|scene| ("bandwidth".to_string(), scene)));
    pictures.extend(sweeps::pictures(sources));
    pictures
}

#[cfg(test)]
mod tests;
