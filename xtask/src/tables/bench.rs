//! What `warpfold bench` measured of a CPU, of the newest of its records.

use anyhow::Result;

use super::blocks::{paragraph, table};
use super::plots::Plot;
use super::record::{BENCH, Record, Row};

/// Plots that the README shows; to the others it has links.
const SHOWN: [&str; 2] = ["Roofline", "Attention forward over size"];

/// The newest record of `warpfold bench` of this machine.
pub fn newest<'a>(records: &'a [Record], machine: &str) -> Option<&'a Record> {
    records.iter().rev().find(|record| record.machine == machine && record.has(BENCH))
}

/// The table and the plots; empty without a record.
pub fn block(record: Option<&Record>, plots: &[Plot]) -> Result<String> {
    let Some(record) = record else {
        return Ok(String::new());
    };
    let timed = |row: &Row<'_>, kind: &str| row.get("kind") == kind && !row.get("rate").is_empty();
    let rows: Vec<Row<'_>> =
        record.rows().filter(|row| timed(row, "operation") && row.get("series").is_empty()).collect();
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
    let mut lines = Vec::new();
    for problem in &problems {
        let mut cells =
            vec![format!("{}, {}", problem.operation.replace('_', " "), problem.shape), problem.unit.to_string()];
        for dtype in &dtypes {
            // Of several measurements in a file, the last one counts.
            let row = rows.iter().rev().find(|row| row.get("dtype") == *dtype && Problem::of(row) == *problem);
            cells.push(row.map(cell).transpose()?.unwrap_or_default());
        }
        lines.push(cells);
    }
    let mut text = String::new();
    if !lines.is_empty() {
        let head: Vec<String> = ["", ""].iter().chain(&dtypes).map(ToString::to_string).collect();
        text = format!("{}\n\n", table(&head, &lines));
    }
    let ceilings: Vec<String> =
        record.rows().filter(|row| timed(row, "ceiling")).map(|row| ceiling(&row)).collect::<Result<_>>()?;
    let meaning = match ceilings.is_empty() {
        true => "Rates.".to_string(),
        false => format!("Rates, and in brackets their share of what the machine can do: {}.", ceilings.join(", ")),
    };
    let legend = "Attention: b sequences, h heads of queries and keys, s queries and keys of each, d columns a head.";
    let mut caption = format!("{meaning} {legend} {} From {}.", place(record), record.link());
    let (shown, linked): (Vec<&Plot>, Vec<&Plot>) =
        plots.iter().partition(|plot| SHOWN.contains(&plot.title().as_str()));
    if !linked.is_empty() {
        let links: Vec<String> =
            linked.iter().map(|plot| format!("[{}](docs/{})", plot.title().to_lowercase(), plot.name)).collect();
        caption += &format!(" Further pictures: {}.", links.join(", "));
    }
    text += &paragraph(&caption);
    for plot in shown {
        text += &format!("\n\n![{}](docs/{})", plot.title(), plot.name);
    }
    Ok(text)
}

fn cell(row: &Row<'_>) -> Result<String> {
    let rate = rate(row.number("rate")?);
    if row.get("fraction").is_empty() {
        return Ok(rate);
    }
    Ok(format!("{rate} ({:.0} %)", row.number("fraction")? * 100.0))
}

fn ceiling(row: &Row<'_>) -> Result<String> {
    let dtype = if row.get("dtype").is_empty() { String::new() } else { format!(" in {}", row.get("dtype")) };
    let what = match row.get("operation") {
        // On a CPU these are multiply-adds in registers.
        "matrix" if row.get("problem").starts_with("multiply-add") => "multiply-adds",
        "matrix" => "a product of matrices",
        "copy" => "a copy",
        "copy in cache" => "a copy in the caches",
        other => other,
    };
    Ok(format!("{what}{dtype} at {} {}", rate(row.number("rate")?), row.get("unit")))
}

/// Device, day and commit, as a sentence.
fn place(record: &Record) -> String {
    let Some(row) = record.rows().next_back() else {
        return String::new();
    };
    let day = row.get("date").split([' ', 'T']).next().unwrap_or_default();
    let mut parts = vec![row.get("device").to_string()];
    match row.get("threads") {
        "" => (),
        "1" => parts.push("1 thread".to_string()),
        threads => parts.push(format!("{threads} threads")),
    }
    if !row.get("driver").is_empty() {
        parts.push(format!("driver {}", row.get("driver")));
    }
    parts.push(day.to_string());
    if !row.get("commit").is_empty() {
        parts.push(format!("commit {}", row.get("commit")));
    }
    format!("{}.", parts.join(", "))
}

/// Three digits.
fn rate(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A problem, whatever its type.
#[derive(PartialEq)]
struct Problem<'a> {
    operation: &'a str,
    shape: String,
    unit: &'a str,
}

impl<'a> Problem<'a> {
    fn of(row: &Row<'a>) -> Problem<'a> {
        let (operation, dtype, problem) = (row.get("operation"), row.get("dtype"), row.get("problem"));
        let rest = problem.strip_prefix(operation).unwrap_or(problem).trim_start();
        let rest = rest.strip_prefix(dtype).unwrap_or(rest).trim_start();
        Problem { operation, shape: if rest.is_empty() { problem } else { rest }.to_string(), unit: row.get("unit") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record that the plots are tested with too.
    fn record() -> Record {
        Record::parse("benches/record/cpu/2026-11-27-bench.csv", include_str!("../../../tests/data/bench_record.csv"))
            .unwrap()
    }

    #[test]
    fn operations_have_rates_and_shares_and_the_caption_the_ceilings() {
        let plots = [Plot { name: "cpu_roofline.svg".to_string(), svg: String::new() }];
        let text = block(Some(&record()), &plots).unwrap();
        assert!(text.starts_with("| | | f32 | bf16 |\n| --- | --- | --- | --- |\n"), "{text}");
        assert!(text.contains("| attention forward, 1x8x512x64 | GFLOP/s | 81.9 (44 %) | "), "{text}");
        assert!(text.contains("| softmax forward, 4096x4096 | GB/s | 21.8 (93 %) | 17.4 (74 %) |"), "{text}");
        // A line with a note has no times, and the sizes of sweeps are in the plots.
        assert!(!text.contains("| f16 |") && !text.contains("1024x16384"), "{text}");
        let caption = text.replace('\n', " ");
        assert!(caption.contains(
            "a copy at 23.4 GB/s, a copy in the caches at 96.2 GB/s, a product of matrices in f32 at 185 GFLOP/s"
        ));
        assert!(
            caption.contains(
                "AMD EPYC (AVX2), 2 threads, 2026-11-27, commit 3244020. From [2026-11-27-bench.csv](benches/"
            )
        );
        assert!(text.ends_with("\n\n![Roofline](docs/cpu_roofline.svg)"), "{text}");
    }

    #[test]
    fn the_newest_record_of_the_machine_is_taken() {
        let mut newer = record();
        newer.path = "benches/record/cpu/2026-11-28-bench.csv".to_string();
        let records = [record(), newer];
        assert_eq!(
            newest(&records, "cpu").map(|record| record.path.as_str()),
            Some("benches/record/cpu/2026-11-28-bench.csv")
        );
        assert_eq!(newest(&records, "h100"), None);
        assert_eq!(block(None, &[]).unwrap(), "");
    }
}
