//! The figures as a table for each problem, and as CSV.

use std::fmt::{self, Write as _};

use warpfold::variants::{Operation, Tile, VARIANTS, Variant};

use crate::problem::Problem;
use crate::timing::Times;

/// The times of one kernel on one problem.
pub struct Measurement {
    problem: String,
    row: &'static Variant,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    /// At the median; 4 * head_dim for each visible pair of query and key.
    tflops: f64,
    calls: usize,
}

impl Measurement {
    pub fn new(problem: &Problem, row: &'static Variant, flops: u64, times_ms: Vec<f64>) -> Measurement {
        let calls = times_ms.len();
        let Times { median_ms, p10_ms, p90_ms } = Times::new(times_ms);
        let tflops = flops as f64 / median_ms / 1e9;
        Measurement { problem: problem.to_string(), row, median_ms, p10_ms, p90_ms, tflops, calls }
    }

    fn is_in_table(&self) -> bool {
        VARIANTS.contains(self.row)
    }

    /// What only one kernel of the table can serve.
    fn job(&self) -> (Operation, u32) {
        (self.row.operation, head_dim(self.row))
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {:.1} TFLOP/s", self.problem, self.row.name(), self.tflops)
    }
}

/// A table for each problem, the fastest first, and what that means for the table of kernels.
pub fn text(measurements: &[Measurement]) -> String {
    let mut text = String::new();
    let mut problems: Vec<(Operation, &str)> = Vec::new();
    for found in measurements {
        let problem = (found.row.operation, found.problem.as_str());
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    for (operation, problem) in problems {
        let is_of_problem = |found: &&Measurement| found.row.operation == operation && found.problem == problem;
        let mut of_problem: Vec<&Measurement> = measurements.iter().filter(is_of_problem).collect();
        of_problem.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
        let _ = writeln!(
            text,
            "\n{}, {problem}\n{:>10} {:>9} {:>9} {:>9} {:>6}  kernel",
            operation.name(),
            "TFLOP/s",
            "median ms",
            "p10",
            "p90",
            "calls"
        );
        for found in &of_problem {
            let mark = if found.is_in_table() { "  <- in src/variants.rs" } else { "" };
            let _ = writeln!(
                text,
                "{:>10.1} {:>9.4} {:>9.4} {:>9.4} {:>6}  {}{mark}",
                found.tflops,
                found.median_ms,
                found.p10_ms,
                found.p90_ms,
                found.calls,
                found.row.name()
            );
        }
    }
    text + &advice(measurements)
}

/// The kernel that is the least behind the fastest, for an operation and head_dim.
pub struct Pick {
    operation: Operation,
    head_dim: u32,
    pub row: &'static Variant,
    /// The geometric mean of its times over all problems, in milliseconds.
    mean_ms: f64,
    /// The same of the kernel in the table.
    rival_ms: Option<f64>,
}

/// One for each operation and head_dim.
pub fn best(measurements: &[Measurement]) -> Vec<Pick> {
    let mut jobs: Vec<(Operation, u32)> = measurements.iter().map(Measurement::job).collect();
    jobs.sort_by_key(|(operation, dim)| (operation.name(), *dim));
    jobs.dedup();
    let mean_ms = |row: &Variant| {
        let logs: Vec<f64> =
            measurements.iter().filter(|found| found.row == row).map(|found| found.median_ms.ln()).collect();
        (logs.iter().sum::<f64>() / logs.len() as f64).exp()
    };
    let of_job = |job: (Operation, u32)| {
        let mut rows: Vec<&'static Variant> =
            measurements.iter().filter(|found| found.job() == job).map(|found| found.row).collect();
        rows.sort_by(|a, b| mean_ms(a).total_cmp(&mean_ms(b)));
        let rival_ms = rows.iter().find(|row| VARIANTS.contains(row)).map(|row| mean_ms(row));
        let row = rows.first()?;
        Some(Pick { operation: job.0, head_dim: job.1, row, mean_ms: mean_ms(row), rival_ms })
    };
    jobs.into_iter().filter_map(of_job).collect()
}

fn advice(measurements: &[Measurement]) -> String {
    let mut text = String::from("\nFor src/variants.rs, by the geometric mean over all problems of a head_dim:\n");
    for Pick { operation, head_dim, row, mean_ms, rival_ms } in best(measurements) {
        let gain = match rival_ms {
            Some(rival_ms) => format!("{:+.1} % against the row that is there", 100.0 * (rival_ms / mean_ms - 1.0)),
            None => "no rival".to_string(),
        };
        let what = if VARIANTS.contains(row) { "keep" } else { "take" };
        let _ = writeln!(text, "  {} d{head_dim}: {what} {}  ({gain})", operation.name(), as_row(row));
    }
    text
}

/// The tile as it is written there.
fn as_row(row: &Variant) -> String {
    match row.tile {
        Tile::AttentionHopper { head_dim, head_dim_v, block_q, block_kv, stages, consumers, ping_pong, .. } => {
            format!("[{head_dim}, {head_dim_v}, {block_q}, {block_kv}, {stages}, {consumers}], ping_pong {ping_pong}")
        }
        _ => row.name(),
    }
}

fn head_dim(row: &Variant) -> u32 {
    match row.tile {
        Tile::AttentionHopper { head_dim, .. } => head_dim,
        _ => 0,
    }
}

/// All figures.
pub fn csv(measurements: &[Measurement]) -> String {
    let mut text = String::from("problem,kernel,in_table,median_ms,p10_ms,p90_ms,tflops,calls\n");
    for found in measurements {
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{}",
            found.problem,
            found.row.name(),
            found.is_in_table(),
            found.median_ms,
            found.p10_ms,
            found.p90_ms,
            found.tflops,
            found.calls
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpfold::variants;

    #[test]
    fn the_fastest_comes_first_and_the_best_overall_is_recommended() {
        let kept = variants::named("attention_forward_sm90a_bf16_d128_plain").expect("a row of the table");
        let candidate = variants::sweep().find(|row| head_dim(row) == 128).expect("a candidate");
        let problem = |is_causal| Problem { shape: [1, 16, 16, 1024, 1024], head_dim: 128, is_causal };
        // The candidate loses a little on one problem and wins a lot on the other.
        let measured = [
            Measurement::new(&problem(false), kept, 4_000_000_000, vec![3.0, 1.0, 2.0]),
            Measurement::new(&problem(false), candidate, 4_000_000_000, vec![2.2]),
            Measurement::new(&problem(true), kept, 2_000_000_000, vec![2.0]),
            Measurement::new(&problem(true), candidate, 2_000_000_000, vec![1.0]),
        ];
        assert_eq!((measured[0].median_ms, measured[0].p10_ms, measured[0].p90_ms), (2.0, 1.0, 3.0));
        assert_eq!(measured[0].tflops, 2.0);
        let text = text(&measured);
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in\n{text}"));
        assert!(place("d128 dense") < place("d128 causal"));
        assert!(place("<- in src/variants.rs") < place(&candidate.name()), "{text}");
        assert!(
            text.contains(&format!(
                "attention_forward d128: take {}  (+34.8 % against the row that is there)",
                as_row(candidate)
            )),
            "{text}"
        );
        assert_eq!(csv(&measured).lines().count(), 5);
    }
}
