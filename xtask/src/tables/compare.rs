//! A machine beside PyTorch, of the newest record of `cargo xtask compare`.

use anyhow::Result;

use super::blocks::{paragraph, table};
use super::record::{COMPARE, Record, Row};

/// PyTorch's back ends. Where other libraries are installed, a record has them too, and these tables speak of PyTorch.
const BACKENDS: [&str; 6] = ["cudnn", "flash", "efficient", "math", "eager", "eager out"];

/// The newest record of `cargo xtask compare` of this machine.
pub fn newest<'a>(records: &'a [Record], machine: &str) -> Option<&'a Record> {
    records.iter().rev().find(|record| record.machine == machine && record.has(COMPARE))
}

/// The lines with times of both sides.
pub fn timed(record: &Record) -> impl Iterator<Item = Row<'_>> {
    record.rows().filter(|row| !row.get("ratio").is_empty() && BACKENDS.contains(&row.get("backend")))
}

/// The table of this machine, of the rows that belong to it; empty without any.
pub fn block(records: &[Record], machine: &str, belongs: &dyn Fn(&Row<'_>) -> bool) -> Result<String> {
    let rows: Vec<Row<'_>> = newest(records, machine)
        .map(|record| timed(record).filter(|row| is_shown(row) && belongs(row)).collect())
        .unwrap_or_default();
    let Some(last) = rows.last() else {
        return Ok(String::new());
    };
    let mut dtypes: Vec<&str> = Vec::new();
    let mut problems: Vec<Problem<'_>> = Vec::new();
    for row in &rows {
        if !dtypes.contains(&row.get("dtype")) {
            dtypes.push(row.get("dtype"));
        }
        let problem = Problem::of(row);
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    // By operation; within one, in the record's order.
    let mut operations: Vec<&str> = Vec::new();
    for problem in &problems {
        if !operations.contains(&problem.operation) {
            operations.push(problem.operation);
        }
    }
    problems
        .sort_by_key(|problem| (problem.unit == "GB/s", operations.iter().position(|name| *name == problem.operation)));

    let mut lines = Vec::new();
    for problem in &problems {
        let mut cells = vec![problem.label(), problem.unit.to_string()];
        for dtype in &dtypes {
            let is_it = |row: &Row<'_>| row.get("dtype") == *dtype && Problem::of(row) == *problem;
            cells.push(cell(rows.iter().copied().filter(is_it))?);
        }
        lines.push(cells);
    }
    let head: Vec<String> = ["", ""].iter().chain(&dtypes).map(ToString::to_string).collect();
    let meaning = "Rates, and in brackets how many times those of PyTorch, by the fastest of its back ends.";
    Ok(format!("{}\n\n{}", table(&head, &lines), paragraph(&format!("{meaning} {}", source(last)))))
}

/// Of calls into given memory, and not of a sweep of sizes, which has plots.
fn is_shown(row: &Row<'_>) -> bool {
    row.get("series").is_empty() && !row.get("problem").ends_with(" allocating")
}

/// Of a problem's rows: the rate, and the ratio to the fastest of the back ends; of a back end's rows the last counts.
pub fn cell<'a>(rows: impl Iterator<Item = Row<'a>>) -> Result<String> {
    let mut last: Vec<Row<'_>> = Vec::new();
    for row in rows {
        last.retain(|other| other.get("backend") != row.get("backend"));
        last.push(row);
    }
    let mut lowest: Option<(f64, f64)> = None;
    for row in last {
        let ratio = row.number("ratio")?;
        if lowest.is_none_or(|(least, _)| ratio < least) {
            lowest = Some((ratio, row.number("warpfold_rate")?));
        }
    }
    let Some((ratio, rate)) = lowest else {
        return Ok(String::new());
    };
    let shown = if rate < 30.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
    Ok(format!("{shown} ({ratio:.2})"))
}

/// Where, when and with what a row was measured, in sentences.
pub fn source(row: &Row<'_>) -> String {
    format!(
        "{}; warpfold {} ({}), through the Python package, and PyTorch {} in turns in one run. From {}.",
        place(row),
        row.get("warpfold"),
        row.get("commit"),
        // "2.11, cuDNN 9": a comma would begin the next item.
        row.get("pytorch").replace(", ", " with "),
        row.record().link(),
    )
}

/// Machine and day.
fn place(row: &Row<'_>) -> String {
    let device = row.get("device");
    let day = row.get("date").split(' ').next().unwrap_or_default();
    // A GPU's driver and clocks are in no column; the comments begin with them, after the device's name.
    let comments = row.record().comments.join(" ");
    let sentence = comments.split(". ").next().unwrap_or_default().trim_end_matches('.');
    if sentence.starts_with(device) && sentence.ends_with(day) {
        return sentence.to_string();
    }
    match row.get("threads") {
        "" => format!("{device}, {day}"),
        threads => format!("{device}, {threads} threads on either side, {day}"),
    }
}

/// An operation in words.
pub fn words(operation: &str) -> String {
    operation.replace("layer_norm", "layer norm").replace("rms_norm", "RMS norm")
}

/// A row's problem without operation and type: `1x8x2048x64 causal`.
pub fn shape<'a>(row: &Row<'a>) -> &'a str {
    let begin = format!("{} {} ", row.get("operation"), row.get("dtype"));
    row.get("problem").strip_prefix(&begin).unwrap_or(row.get("problem"))
}

/// A problem, whatever its type.
#[derive(PartialEq)]
struct Problem<'a> {
    operation: &'a str,
    shape: &'a str,
    unit: &'a str,
}

impl<'a> Problem<'a> {
    fn of(row: &Row<'a>) -> Problem<'a> {
        Problem { operation: row.get("operation"), shape: shape(row), unit: row.get("unit") }
    }

    /// In words, where the shape is one of those that `cargo xtask compare` has.
    fn label(&self) -> String {
        let operation = words(self.operation);
        let (first, rest) = self.shape.split_once(' ').unwrap_or((self.shape, ""));
        let sizes: Vec<&str> = first.split('x').collect();
        match (sizes.as_slice(), rest.split_once("on ")) {
            ([_, heads, "1", head_dim], Some((_, keys))) => {
                let keys = keys.split('x').nth(2).unwrap_or(keys);
                format!("{operation}, one query on {keys} keys, {heads} heads, d{head_dim}")
            }
            ([_, _, length, head_dim], None) => {
                let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
                format!("{operation}, {length} tokens, d{head_dim}{rest}")
            }
            ([rows, columns], _) => format!("{operation}, {rows} x {columns}"),
            _ => format!("{operation}, {}", self.shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::tests::{compared, line};

    const ALL: &dyn Fn(&Row<'_>) -> bool = &|_| true;

    fn record(name: &str, lines: &[String]) -> Record {
        Record::parse(&format!("benches/record/cpu/{name}.csv"), &compared("x", lines)).unwrap()
    }

    #[test]
    fn problems_stand_by_operation_with_a_column_for_each_type() {
        let lines = [
            line("attention forward", "f32", "1x8x512x64", "flash", ["GFLOP/s", "81.94", "1.078"]),
            line("attention forward", "f32", "1x32x1x128 on 1x32x4096x128", "flash", ["GB/s", "11.42", "1.605"]),
            line("softmax", "f32", "1024x1024", "eager out", ["GB/s", "11.12", "1.206"]),
            line("softmax", "f32", "1024x1024 allocating", "eager", ["GB/s", "12.14", "1.357"]),
            line("layer_norm", "f32", "1024x1024", "eager", ["GB/s", "18.87", "0.606"]),
            line("softmax", "f32", "4096x4096", "eager out", ["GB/s", "10.12", "1.317"]),
            line("attention forward", "bf16", "1x8x512x64", "flash", ["GFLOP/s", "85.04", "1.049"]),
        ];
        let old = record("2026-01-01", &[line("softmax", "f32", "7x7", "eager", ["GB/s", "1", "1"])]);
        let text = block(&[old, record("2026-01-02", &lines)], "cpu", ALL).unwrap();
        let table = text.split("\n\n").next().unwrap();
        let wanted = "| | | f32 | bf16 |\n| --- | --- | --- | --- |\n\
                      | attention forward, 512 tokens, d64 | GFLOP/s | 82 (1.08) | 85 (1.05) |\n\
                      | attention forward, one query on 4096 keys, 32 heads, d128 | GB/s | 11.4 (1.60) | |\n\
                      | softmax, 1024 x 1024 | GB/s | 11.1 (1.21) | |\n\
                      | softmax, 4096 x 4096 | GB/s | 10.1 (1.32) | |\n\
                      | layer norm, 1024 x 1024 | GB/s | 18.9 (0.61) | |";
        assert_eq!(table, wanted);
        let caption = "CPU, 2 threads on either side, 2026-01-02; warpfold 0.1.0 (abc1234), through the Python package, and PyTorch \
                       2.15 with cuDNN 9 in turns in one run. From [2026-01-02.csv](benches/record/cpu/2026-01-02.csv).";
        assert!(text.replace('\n', " ").ends_with(caption), "{text}");
    }

    #[test]
    fn the_fastest_rival_counts_and_of_repetitions_the_last() {
        let same =
            |backend: &str, rate: &str, ratio: &str| line("softmax", "f32", "8x8", backend, ["GB/s", rate, ratio]);
        let lines = [same("flash", "10", "0.5"), same("math", "12", "1.5"), same("flash", "13", "1.2")];
        assert!(block(&[record("r", &lines)], "cpu", ALL).unwrap().contains("| softmax, 8 x 8 | GB/s | 13.0 (1.20) |"));
        assert_eq!(block(&[record("r", &lines)], "other", ALL).unwrap(), "");
    }
    #[test]
    fn other_libraries_and_refusals_are_no_rivals() {
        let same = |backend: &str, figures| line("attention forward", "bf16", "1x8x512x64", backend, figures);
        let lines = [
            same("flash_attn", ["TFLOP/s", "36.08", "0.5"]),
            same("cudnn", ["", "", ""]),
            same("efficient", ["TFLOP/s", "36.08", "1.781"]),
            line("softmax", "bf16", "8x8", "quack", ["GB/s", "10", "0.5"]),
        ];
        let text = block(&[record("r", &lines)], "cpu", ALL).unwrap();
        assert!(text.contains("| attention forward, 512 tokens, d64 | TFLOP/s | 36 (1.78) |"), "{text}");
        assert!(!text.contains("softmax"), "{text}");
    }

    #[test]
    fn only_rows_that_belong_are_shown() {
        let softmax = |shape: &str| line("softmax", "f32", shape, "eager", ["GB/s", "10", "0.5"]);
        let records = [record("r", &[softmax("8x8"), softmax("9x9")])];
        let text = block(&records, "cpu", &|row| shape(row) == "9x9").unwrap();
        assert!(text.contains("softmax, 9 x 9") && !text.contains("8 x 8"), "{text}");
        assert_eq!(block(&records, "cpu", &|_| false).unwrap(), "", "a table without figures is no table");
    }
}
