//! Records: one row a measurement, as CSV that grows with the run and as JSON at its end.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A row; the fields are the columns, in this order. What does not apply is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub date: String,
    pub commit: String,
    pub device: String,
    pub driver: String,
    pub compiler: String,
    pub threads: Option<usize>,
    /// `ceiling`, `operation` or `overhead`.
    pub kind: String,
    pub operation: String,
    pub dtype: String,
    pub problem: String,
    /// The sweep that the row is a point of, and where.
    pub series: String,
    pub size: Option<usize>,
    pub median_ms: Option<f64>,
    pub p10_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub calls: Option<usize>,
    pub rate: Option<f64>,
    pub unit: String,
    /// The rate of the ceiling that the problem meets, in the same unit.
    pub ceiling: Option<f64>,
    /// Rate over ceiling.
    pub fraction: Option<f64>,
    /// Operations a byte.
    pub intensity: Option<f64>,
    /// The worst difference from the oracle, as a share of what is allowed.
    pub error: Option<f64>,
    pub clock_mhz: Option<f64>,
    pub power_w: Option<f64>,
    pub temperature_c: Option<f64>,
    pub note: String,
}

/// Five digits are more than any of these figures has.
pub fn significant(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// The file that grows.
pub struct CsvFile(csv::Writer<File>);

impl CsvFile {
    /// Begins with comments, and the header.
    pub fn create(path: &Path, comments: &[String]) -> Result<CsvFile> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        for comment in comments {
            writeln!(file, "# {}", comment.replace('\n', " "))?;
        }
        Ok(CsvFile(csv::Writer::from_writer(file)))
    }

    /// Writes a row at once: a run that is cut short still counts.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.0.serialize(record)?;
        Ok(self.0.flush()?)
    }
}

/// Everything as one object: the comments, and the rows under the names of the columns.
pub fn write_json(path: &Path, comments: &[String], records: &[Record]) -> Result<()> {
    #[derive(Serialize)]
    struct Whole<'a> {
        comments: &'a [String],
        records: &'a [Record],
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = std::io::BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, &Whole { comments, records })?;
    Ok(writeln!(file).and_then(|()| file.flush())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "date,commit,device,driver,compiler,threads,kind,operation,dtype,problem,series,size,median_ms,p10_ms,\
        p90_ms,calls,rate,unit,ceiling,fraction,intensity,error,clock_mhz,power_w,temperature_c,note";

    #[test]
    fn rows_come_back_as_they_were_written() {
        let path = std::env::temp_dir().join(format!("warpfold-record-{}.csv", std::process::id()));
        let record = Record {
            date: "2026-11-27".to_string(),
            device: "a \"GPU\", of sorts".to_string(),
            threads: Some(2),
            rate: Some(significant(123.456_789)),
            note: "two\nlines".to_string(),
            ..Record::default()
        };
        let comments = ["first".to_string(), "with\nbreak".to_string()];
        let mut file = CsvFile::create(&path, &comments).expect("a file");
        for _ in 0..2 {
            file.write(&record).expect("a row");
        }
        // Without closing it.
        let text = std::fs::read_to_string(&path).expect("it is there");
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        let rows: Vec<Record> = reader.deserialize().collect::<Result<_, _>>().expect("rows");
        assert_eq!(rows, [record.clone(), record.clone()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["# first", "# with break", HEADER]);
        assert_eq!(rows[0].rate, Some(123.46));

        write_json(&path, &comments, &rows).expect("a file");
        let text = std::fs::read_to_string(&path).expect("it is there");
        let whole: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(whole["records"][1]["rate"], 123.46);
        assert_eq!(whole["comments"][0], "first");
        std::fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn figures_have_five_digits() {
        assert_eq!([0.0, 1.0, 123_456.7, 0.000_123_456_7].map(significant), [0.0, 1.0, 123_460.0, 0.000_123_46]);
        assert!(significant(f64::NAN).is_nan());
    }
}
