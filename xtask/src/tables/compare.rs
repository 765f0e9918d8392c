//! A CPU beside PyTorch, of the newest record of `cargo xtask compare`.

use anyhow::Result;

use super::blocks::{paragraph, table};
use super::record::{COMPARE, Record, Row};

/// The table of this machine; empty without a record.
pub fn block(records: &[Record], machine: &str) -> Result<String> {
    let Some(record) = records.iter().rev().find(|record| record.machine == machine && record.has(COMPARE)) else {
        return Ok(String::new());
    };
    let rows: Vec<Row<'_>> = record.rows().filter(is_shown).collect();
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
            let same: Vec<&Row<'_>> =
                rows.iter().filter(|row| row.get("dtype") == *dtype && Problem::of(row) == *problem).collect();
            cells.push(cell(&same)?);
        }
        lines.push(cells);
    }
    let head: Vec<String> = ["", ""].iter().chain(&dtypes).map(ToString::to_string).collect();
    let last = rows.last().map_or_else(String::new, |row| {
        let day = row.get("date").split(' ').next().unwrap_or_default();
        format!(
            "{}, {} threads on either side, {day}; warpfold {} ({}) through the Python package, PyTorch {}.",
            row.get("device"),
            row.get("threads"),
            row.get("warpfold"),
            row.get("commit"),
            row.get("pytorch"),
        )
    });
    let caption = format!("Rates, and in brackets how many times those of PyTorch. {last} From {}.", record.link());
    Ok(format!("{}\n\n{}", table(&head, &lines), paragraph(&caption)))
}

/// Rows with times, of calls into given memory, and not of a sweep of sizes, which has plots.
fn is_shown(row: &Row<'_>) -> bool {
    !row.get("ratio").is_empty() && row.get("series").is_empty() && !row.get("problem").ends_with(" allocating")
}

/// The rate, and the ratio to the fastest of PyTorch's back ends; of a back end's rows the last counts.
fn cell(rows: &[&Row<'_>]) -> Result<String> {
    let mut last: Vec<&Row<'_>> = Vec::new();
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

/// A problem, whatever its type.
#[derive(PartialEq)]
struct Problem<'a> {
    operation: &'a str,
    shape: &'a str,
    unit: &'a str,
}

impl<'a> Problem<'a> {
    fn of(row: &Row<'a>) -> Problem<'a> {
        let operation = row.get("operation");
        let begin = format!("{operation} {} ", row.get("dtype"));
        let problem = row.get("problem");
        Problem { operation, shape: problem.strip_prefix(&begin).unwrap_or(problem), unit: row.get("unit") }
    }

    /// In words, where the shape is one of those that `cargo xtask compare` has.
    fn label(&self) -> String {
        let operation = self.operation.replace("layer_norm", "layer norm").replace("rms_norm", "RMS norm");
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

    fn line(operation: &str, dtype: &str, shape: &str, backend: &str, figures: [&str; 3]) -> String {
        let [unit, rate, ratio] = figures;
        format!(
            "2026-01-02 10:00,abc1234,CPU,0.1.0,2.15,2,{operation},{dtype},{operation} {dtype} {shape},{backend},1,1,1,1,1,1,\
             {unit},1,{rate},{ratio},,0,0,,,"
        )
    }

    fn record(name: &str, lines: &[String]) -> Record {
        Record::parse(&format!("benches/record/cpu/{name}.csv"), &format!("# x\n{COMPARE}\n{}\n", lines.join("\n")))
            .unwrap()
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
        let text = block(&[old, record("2026-01-02", &lines)], "cpu").unwrap();
        let table = text.split("\n\n").next().unwrap();
        let wanted = "| | | f32 | bf16 |\n| --- | --- | --- | --- |\n\
                      | attention forward, 512 tokens, d64 | GFLOP/s | 82 (1.08) | 85 (1.05) |\n\
                      | attention forward, one query on 4096 keys, 32 heads, d128 | GB/s | 11.4 (1.60) | |\n\
                      | softmax, 1024 x 1024 | GB/s | 11.1 (1.21) | |\n\
                      | softmax, 4096 x 4096 | GB/s | 10.1 (1.32) | |\n\
                      | layer norm, 1024 x 1024 | GB/s | 18.9 (0.61) | |";
        assert_eq!(table, wanted);
        assert!(text.contains("CPU, 2 threads on either side, 2026-01-02; warpfold 0.1.0 (abc1234)"), "{text}");
    }

    #[test]
    fn the_fastest_rival_counts_and_of_repetitions_the_last() {
        let same =
            |backend: &str, rate: &str, ratio: &str| line("softmax", "f32", "8x8", backend, ["GB/s", rate, ratio]);
        let lines = [same("a", "10", "0.5"), same("b", "12", "1.5"), same("a", "13", "1.2")];
        assert!(block(&[record("r", &lines)], "cpu").unwrap().contains("| softmax, 8 x 8 | GB/s | 13.0 (1.20) |"));
        assert_eq!(block(&[record("r", &lines)], "other").unwrap(), "");
    }
}
