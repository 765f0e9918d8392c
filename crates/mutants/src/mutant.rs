//! A seeded bug: a small change of the kernels' source, where it is run, and what has to catch it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The kernels' source files by their path from the workspace's root.
pub type Sources = BTreeMap<PathBuf, String>;

/// One change of one file.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Below `kernels/`.
    pub file: &'static str,
    pub find: &'static str,
    /// Which occurrence, from 1 on; `None` where there is one only.
    pub nth: Option<usize>,
    pub replace: &'static str,
}

/// What has to happen when the mutant runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// The emulator reports a hazard of one of these kinds.
    Hazard(&'static [&'static str]),
    /// The result leaves the oracle's tolerance, or memory outside of it is written.
    Numbers,
    /// All results are right, at a higher cost than the original's.
    Counters,
    /// It does not come to an end.
    Endless,
    /// Nothing: the change does not change what the kernel does. The proof says why.
    Equivalent(&'static str),
}

/// A seeded bug.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Unique; also its folder's name.
    pub name: &'static str,
    /// What is wrong, in words.
    pub what: &'static str,
    pub edits: Vec<Edit>,
    /// Names of rows of `warpfold::variants::VARIANTS`. Each of them has to be caught.
    pub variants: &'static [&'static str],
    pub expected: Expected,
    /// Whether it belongs to the subset that runs with every test.
    pub fast: bool,
}

impl Mutant {
    /// A bug on these kernels; until something else is said it has to give wrong numbers.
    pub fn new(name: &'static str, what: &'static str, variants: &'static [&'static str]) -> Mutant {
        Mutant { name, what, edits: Vec::new(), variants, expected: Expected::Numbers, fast: false }
    }

    /// Replaces the only occurrence of a text.
    pub fn edit(mut self, file: &'static str, find: &'static str, replace: &'static str) -> Mutant {
        self.edits.push(Edit { file, find, nth: None, replace });
        self
    }

    /// Replaces one of several occurrences of a text, counted from 1.
    pub fn edit_nth(mut self, nth: usize, file: &'static str, find: &'static str, replace: &'static str) -> Mutant {
        self.edits.push(Edit { file, find, nth: Some(nth), replace });
        self
    }

    /// A hazard of one of these kinds has to be reported.
    pub fn hazard(mut self, kinds: &'static [&'static str]) -> Mutant {
        self.expected = Expected::Hazard(kinds);
        self
    }

    /// The counters have to tell.
    pub fn counters(mut self) -> Mutant {
        self.expected = Expected::Counters;
        self
    }

    /// It must not come to an end.
    pub fn endless(mut self) -> Mutant {
        self.expected = Expected::Endless;
        self
    }

    /// Nothing may tell, because of this.
    pub fn equivalent(mut self, proof: &'static str) -> Mutant {
        self.expected = Expected::Equivalent(proof);
        self
    }

    /// Puts it into the subset that runs with every test.
    pub fn fast(mut self) -> Mutant {
        self.fast = true;
        self
    }

    /// The sources with the bug.
    ///
    /// # Errors
    /// A text that is not there, or more than once where one occurrence is meant; a replacement that would shift lines,
    /// so that reports would name other lines than the shipped source has.
    pub fn apply(&self, sources: &Sources) -> Result<Sources> {
        let mut sources = sources.clone();
        for edit in &self.edits {
            let path = Path::new("kernels").join(edit.file);
            let place = || format!("mutant {}: {:?} in {}", self.name, edit.find, path.display());
            let text = sources.get_mut(&path).with_context(|| format!("{}: there is no such file", place()))?;
            let starts: Vec<usize> = text.match_indices(edit.find).map(|(start, _)| start).collect();
            let start = match (edit.nth, starts.as_slice()) {
                (None, [start]) => *start,
                (Some(nth), starts) if (1..=starts.len()).contains(&nth) => starts[nth - 1],
                (nth, starts) => bail!("{} occurs {} times; occurrence {nth:?} is meant", place(), starts.len()),
            };
            let lines = |text: &str| text.matches('\n').count();
            ensure!(lines(edit.find) == lines(edit.replace), "{}: the replacement has other lines", place());
            text.replace_range(start..start + edit.find.len(), edit.replace);
        }
        Ok(sources)
    }
}

/// Reads all files below `kernels/` of a workspace.
pub fn read_sources(workspace: &Path) -> Result<Sources> {
    let mut sources = Sources::new();
    let mut folders = vec![PathBuf::from("kernels")];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(workspace.join(&folder)).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| ["cu", "cuh", "h"].iter().any(|known| extension == *known))
            {
                let text =
                    fs::read_to_string(entry.path()).with_context(|| format!("cannot read {}", path.display()))?;
                sources.insert(path, text);
            }
        }
    }
    Ok(sources)
}
