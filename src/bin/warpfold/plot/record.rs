//! Records of `warpfold bench`, as far as pictures need them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

/// What a line is about.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The most that the machine can do: a copy, a product of matrices.
    Ceiling,
    Operation,
    /// What a call costs that has next to nothing to compute.
    Overhead,
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub enum Unit {
    #[serde(rename = "GB/s")]
    GigaBytes,
    #[serde(rename = "GFLOP/s")]
    GigaFlop,
    #[serde(rename = "TFLOP/s")]
    TeraFlop,
}

impl Unit {
    pub fn is_bytes(self) -> bool {
        self == Unit::GigaBytes
    }

    /// Thousand millions a second in one of this unit.
    pub fn in_giga(self) -> f64 {
        match self {
            Unit::GigaBytes | Unit::GigaFlop => 1.0,
            Unit::TeraFlop => 1000.0,
        }
    }

    /// The unit of FLOP in which numbers up to this one, in GFLOP/s, read well.
    pub fn of_flop(giga_max: f64) -> Unit {
        if giga_max >= 2000.0 { Unit::TeraFlop } else { Unit::GigaFlop }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::GigaBytes => "GB/s",
            Unit::GigaFlop => "GFLOP/s",
            Unit::TeraFlop => "TFLOP/s",
        })
    }
}

/// One line. Rates are in the line's own unit; [`Line::giga`] makes them comparable.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub date: String,
    pub commit: String,
    pub device: String,
    pub driver: String,
    pub threads: Option<u32>,
    pub kind: Kind,
    pub operation: String,
    pub dtype: String,
    pub problem: String,
    pub series: String,
    pub size: Option<f64>,
    pub median_ms: Option<f64>,
    pub p10_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub rate: Option<f64>,
    pub unit: Option<Unit>,
    pub ceiling: Option<f64>,
    pub fraction: Option<f64>,
    pub intensity: Option<f64>,
    /// Why there are no times, if there are none.
    pub note: String,
}

const KINDS: [&str; 3] = ["ceiling", "operation", "overhead"];
const UNITS: [&str; 3] = ["GB/s", "GFLOP/s", "TFLOP/s"];

/// The columns that [`Line`] has, in the order of the file.
const COLUMNS: [&str; 20] = [
    "date",
    "commit",
    "device",
    "driver",
    "threads",
    "kind",
    "operation",
    "dtype",
    "problem",
    "series",
    "size",
    "median_ms",
    "p10_ms",
    "p90_ms",
    "rate",
    "unit",
    "ceiling",
    "fraction",
    "intensity",
    "note",
];

impl Line {
    /// In thousand millions a second; 0 in a line without times.
    pub fn giga(&self) -> f64 {
        self.rate.unwrap_or(0.0) * self.unit().in_giga()
    }

    /// The ceiling that the line is held to, like [`Line::giga`].
    pub fn ceiling_giga(&self) -> Option<f64> {
        Some(self.ceiling? * self.unit().in_giga())
    }

    pub fn unit(&self) -> Unit {
        self.unit.unwrap_or(Unit::GigaBytes)
    }

    /// The rate if calls took this time instead of the median; the rate itself where the record has no such time.
    pub fn giga_at(&self, time_ms: Option<f64>) -> f64 {
        match (self.median_ms, time_ms) {
            (Some(median), Some(time)) => self.giga() * median / time,
            _ => self.giga(),
        }
    }

    /// The problem without what is said beside it anyway.
    pub fn short_problem(&self) -> &str {
        without(without(&self.problem, &self.operation), &self.dtype)
    }

    /// The series without the operation, which is the picture's title.
    pub fn short_series(&self) -> &str {
        without(&self.series, &self.operation)
    }
}

/// The text without this beginning, unless nothing would be left.
pub fn without<'a>(text: &'a str, prefix: &str) -> &'a str {
    match text.strip_prefix(prefix) {
        Some(rest) if !rest.trim().is_empty() => rest.trim_start(),
        _ => text,
    }
}

/// Each of them once, in the order in which they come.
pub fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

/// The lines of a file that have times.
#[derive(Clone, Debug)]
pub struct Record {
    pub path: PathBuf,
    pub lines: Vec<Line>,
}

impl Record {
    /// Reads a file.
    ///
    /// # Errors
    /// They name the file, and the line and column where there is one.
    pub fn read(path: &Path) -> anyhow::Result<Record> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        Ok(Record { path: path.to_path_buf(), lines })
    }
}

/// Reads the text of a record.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|error| error.to_string())?.clone();
    if headers.is_empty() {
        return Err("there is no line with the names of the columns".to_string());
    }
    if let Some(missing) = COLUMNS.iter().find(|&&column| !headers.iter().any(|header| header == column)) {
        let above = text.lines().take_while(|line| line.starts_with('#') || line.trim().is_empty()).count();
        return Err(format!("line {}: no column `{missing}`, so this is no record of `warpfold bench`", above + 1));
    }
    let mut lines = Vec::new();
    for fields in reader.records() {
        let fields = fields.map_err(|error| in_words(text, &error))?;
        let number = fields.position().map_or(0, |position| line_number(text, position));
        // serde names no field for a word that it does not know.
        for (column, words) in [("kind", &KINDS[..]), ("unit", &UNITS[..])] {
            let index = headers.iter().position(|header| header == column).unwrap_or(0);
            let word = fields.get(index).unwrap_or_default();
            let is_left_out = column == "unit" && word.is_empty();
            if !words.contains(&word) && !is_left_out {
                return Err(format!("line {number}, column `{column}`: \"{word}\" is none of {}", words.join(", ")));
            }
        }
        let line: Line = fields.deserialize(Some(&headers)).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Deserialize { err, .. } => {
                let index = err.field().map_or(0, |index| index as usize);
                let column = headers.get(index).unwrap_or("?");
                format!("line {number}, column `{column}`: {:?}: {}", fields.get(index).unwrap_or(""), err.kind())
            }
            other => format!("line {number}: {other:?}"),
        })?;
        // A note without a rate says why there is none; with one it is a remark.
        if line.note.is_empty() || line.rate.is_some() {
            check(&line).map_err(|(column, what)| format!("line {number}, column `{column}`: {what}"))?;
            lines.push(line);
        }
    }
    Ok(lines)
}

/// The line of a record that the reader has found here: it stands before the comments above it.
fn line_number(text: &str, position: &csv::Position) -> usize {
    let at = usize::try_from(position.byte()).unwrap_or(0).min(text.len());
    let (before, after) = text.as_bytes().split_at(at);
    let skipped = after.split(|byte| *byte == b'\n').take_while(|line| line.is_empty() || line.starts_with(b"#"));
    before.iter().filter(|byte| **byte == b'\n').count() + skipped.count() + 1
}

/// An error of the reader, with the right line.
fn in_words(text: &str, error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, |position| line_number(text, position));
            format!("line {line}: {len} fields, where the names of the columns are {expected_len}")
        }
        _ => error.to_string(),
    }
}

/// What a line with times must have, or the column that is wrong and why.
fn check(line: &Line) -> Result<(), (&'static str, String)> {
    if line.operation.is_empty() {
        return Err(("operation", "empty".to_string()));
    }
    if line.kind == Kind::Overhead {
        // Its times are not drawn.
        return Ok(());
    }
    if line.unit.is_none() {
        return Err(("unit", "empty, in a line without a note".to_string()));
    }
    let numbers = [("rate", line.rate), ("median_ms", line.median_ms)];
    for (column, value) in numbers {
        if value.is_none() {
            return Err((column, "empty, in a line without a note".to_string()));
        }
    }
    let optional = [
        ("p10_ms", line.p10_ms),
        ("p90_ms", line.p90_ms),
        ("ceiling", line.ceiling),
        ("fraction", line.fraction),
        ("intensity", line.intensity),
        ("size", line.size),
    ];
    for (column, value) in numbers.into_iter().chain(optional) {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
            return Err((column, format!("{value} is no positive number")));
        }
    }
    if !line.series.is_empty() && line.size.is_none() {
        return Err(("size", "empty, in a line of a series".to_string()));
    }
    Ok(())
}

/// A device in a file: what is told apart in a picture.
#[derive(Clone, Debug)]
pub struct Source {
    /// For the line below the title.
    pub label: String,
    /// For the legend.
    pub short: String,
    /// Behind what is said of it in a few words; empty where it is the only one.
    pub number: String,
    pub lines: Vec<Line>,
}

/// The devices in the files, in the order in which they come.
pub fn sources(records: &[Record]) -> Vec<Source> {
    let mut sources: Vec<(Source, &Path)> = Vec::new();
    for record in records {
        for device in distinct(record.lines.iter().map(|line| line.device.as_str())) {
            let lines: Vec<Line> = latest(record.lines.iter().filter(|line| line.device == device));
            // The last line says when the run ended that counts.
            let last = &lines[lines.len() - 1];
            let day = last.date.split([' ', 'T']).next().unwrap_or_default();
            let threads = last.threads.map(|count| format!("{count} thread{}", if count == 1 { "" } else { "s" }));
            let driver = if last.driver.is_empty() { None } else { Some(format!("driver {}", last.driver)) };
            let commit = if last.commit.is_empty() { None } else { Some(format!("warpfold {}", last.commit)) };
            let parts = [Some(device.to_string()), threads, driver, Some(day.to_string()), commit];
            let label = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            sources.push((
                Source { label, short: format!("{device}, {day}"), number: String::new(), lines },
                &record.path,
            ));
        }
    }
    // Two runs of a device on a day: their files tell them apart.
    let shorts: Vec<String> = sources.iter().map(|(source, _)| source.short.clone()).collect();
    for (index, (source, path)) in sources.iter_mut().enumerate() {
        let is_repeated = shorts.iter().enumerate().any(|(other, short)| other != index && *short == source.short);
        if let (true, Some(stem)) = (is_repeated, path.file_stem()) {
            source.short = format!("{} ({})", source.short, stem.to_string_lossy());
            source.label = format!("{} ({})", source.label, stem.to_string_lossy());
        }
    }
    let mut sources: Vec<Source> = sources.into_iter().map(|(source, _)| source).collect();
    if sources.len() > 1 {
        for (index, source) in sources.iter_mut().enumerate() {
            source.number = format!(" [{}]", index + 1);
            source.label = format!("[{}] {}", index + 1, source.label);
            source.short = format!("[{}] {}", index + 1, source.short);
        }
    }
    sources
}

/// Of several measurements of the same, the last.
fn latest<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<Line> {
    let key = |line: &Line| {
        let size = line.size.map(f64::to_bits);
        (line.operation.clone(), line.dtype.clone(), line.problem.clone(), line.series.clone(), size)
    };
    let mut kept: Vec<Line> = Vec::new();
    for line in lines {
        match kept.iter_mut().find(|other| other.kind == line.kind && key(other) == key(line)) {
            Some(other) => *other = line.clone(),
            None => kept.push(line.clone()),
        }
    }
    kept
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
