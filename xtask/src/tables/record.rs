//! The files of benches/record: comments, the names of the columns, lines of as many fields.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The columns of `warpfold bench`.
pub const BENCH: &str = "date,commit,device,driver,compiler,threads,kind,operation,dtype,problem,series,size,median_ms,p10_ms,p90_ms,\
                         calls,rate,unit,ceiling,fraction,intensity,error,clock_mhz,power_w,temperature_c,note";
/// Those of `cargo xtask compare`.
pub const COMPARE: &str = "date,commit,device,warpfold,pytorch,threads,operation,dtype,problem,backend,pytorch_ms,pytorch_p10_ms,\
                           pytorch_p90_ms,warpfold_ms,warpfold_p10_ms,warpfold_p90_ms,unit,pytorch_rate,warpfold_rate,ratio,goal,\
                           pytorch_error,warpfold_error,series,size,note";

/// A file of measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The folder, which names the machine.
    pub machine: String,
    /// From the workspace's root on, for links.
    pub path: String,
    /// Without `# `.
    pub comments: Vec<String>,
    pub columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Record {
    /// Reads the text of a file that is at `path`.
    pub fn parse(path: &str, text: &str) -> Result<Record> {
        let is_comment = |line: &&str| line.starts_with('#');
        let comments: Vec<String> =
            text.lines().take_while(is_comment).map(|line| line.trim_start_matches(['#', ' ']).to_string()).collect();
        let num_comments = comments.len();
        let rest: String = text.split_inclusive('\n').skip(num_comments).collect();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(rest.as_bytes());
        let mut lines = Vec::new();
        for fields in reader.records() {
            let fields = fields.with_context(|| format!("{path} is no CSV"))?;
            let line = num_comments as u64 + fields.position().map_or(0, csv::Position::line);
            lines.push((line, fields.iter().map(str::to_string).collect::<Vec<_>>()));
        }
        let mut lines = lines.into_iter();
        let Some((line, columns)) = lines.next() else {
            bail!("{path} has no line with the names of the columns");
        };
        for (index, column) in columns.iter().enumerate() {
            if column.is_empty() || columns[..index].contains(column) {
                bail!("{path}, line {line}: the name of column {} is empty or there twice: \"{column}\"", index + 1);
            }
        }
        let mut rows = Vec::new();
        for (line, fields) in lines {
            if fields.len() != columns.len() {
                bail!(
                    "{path}, line {line}: {} fields, where the names of the columns are {}",
                    fields.len(),
                    columns.len()
                );
            }
            rows.push(fields);
        }
        if rows.is_empty() {
            bail!("{path} has no measurements");
        }
        let machine = path.rsplit('/').nth(1).unwrap_or_default().to_string();
        Ok(Record { machine, path: path.to_string(), comments, columns, rows })
    }

    /// Whether the file has these columns.
    pub fn has(&self, columns: &str) -> bool {
        self.columns.iter().map(String::as_str).eq(columns.split(','))
    }

    /// The lines, for their fields by column.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = Row<'_>> {
        self.rows.iter().map(|fields| Row { record: self, fields })
    }

    /// A link to it, with its name.
    pub fn link(&self) -> String {
        format!("[{}]({})", self.path.rsplit('/').next().unwrap_or(&self.path), self.path)
    }
}

/// A line of a record.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    record: &'a Record,
    fields: &'a [String],
}

impl<'a> Row<'a> {
    /// A field; empty where the record has no such column.
    pub fn get(&self, column: &str) -> &'a str {
        let index = self.record.columns.iter().position(|other| other == column);
        index.map_or("", |index| &self.fields[index])
    }

    /// A field that is a number.
    pub fn number(&self, column: &str) -> Result<f64> {
        let text = self.get(column);
        let path = &self.record.path;
        let shown = || {
            format!("{path}: {column} is \"{text}\" in the line of {} {}", self.get("operation"), self.get("problem"))
        };
        text.parse().with_context(shown)
    }

    pub fn record(&self) -> &'a Record {
        self.record
    }
}

/// All records, by machine and then by name: the newest of a machine comes last.
pub fn read_all(root: &Path) -> Result<Vec<Record>> {
    let folder = root.join("benches/record");
    let mut records = Vec::new();
    for machine in entries(&folder)?.iter().filter(|path| path.is_dir()) {
        for path in entries(machine)?.iter().filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let shown = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
            records.push(Record::parse(&shown, &text)?);
        }
    }
    Ok(records)
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = read.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_comments_columns_and_rows() {
        let text = "# H100, driver 580.1.\n# with PyTorch 2.11 (cuDNN)\na,b\n1,\"x, y\"\n2,z\n";
        let record = Record::parse("benches/record/h100/2026-01-01.csv", text).unwrap();
        assert_eq!((record.machine.as_str(), record.columns.len()), ("h100", 2));
        assert_eq!(record.comments, ["H100, driver 580.1.", "with PyTorch 2.11 (cuDNN)"]);
        assert_eq!(record.link(), "[2026-01-01.csv](benches/record/h100/2026-01-01.csv)");
        assert_eq!(record.rows().map(|row| row.get("b")).collect::<Vec<_>>(), ["x, y", "z"]);
        assert_eq!(record.rows().next().unwrap().number("a").unwrap(), 1.0);
        assert!(record.rows().next().unwrap().number("b").is_err());
        assert!(record.has("a,b") && !record.has("a"));
    }

    #[test]
    fn a_malformed_record_is_refused_with_its_line() {
        let error = |text: &str| Record::parse("benches/record/m/r.csv", text).unwrap_err().to_string();
        assert!(error("# only this\n").contains("no line with the names"));
        assert!(error("a,b\n").contains("no measurements"));
        assert_eq!(
            error("# x\na,b\n1,2\n1,2,3\n"),
            "benches/record/m/r.csv, line 4: 3 fields, where the names of the columns are 2"
        );
        assert!(error("a,a\n1,2\n").contains("line 1: the name of column 2 is empty or there twice: \"a\""));
        // A comment among the lines has fewer fields than they have.
        assert!(error("a,b\n1,2\n# later\n").contains("line 3: 1 fields"));
    }
}
