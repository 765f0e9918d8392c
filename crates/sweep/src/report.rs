//! The figures as a table for each problem, and as CSV.

use std::fmt::Write as _;

use warpfold::variants::{Tile, VARIANTS, Variant};

use crate::problem::Problem;

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
    pub fn new(problem: &Problem, row: &'static Variant, flops: u64, mut times_ms: Vec<f64>) -> Measurement {
        times_ms.sort_by(f64::total_cmp);
        let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share).round() as usize];
        Measurement {
            problem: problem.to_string(),
            row,
            median_ms: at(0.5),
            p10_ms: at(0.1),
            p90_ms: at(0.9),
            tflops: flops as f64 / at(0.5) / 1e9,
            calls: times_ms.len(),
        }
    }

    fn is_in_table(&self) -> bool {
        VARIANTS.contains(self.row)
    }
}

/// A table for each problem, the fastest first, and what that means for the table of kernels.
pub fn text(measurements: &[Measurement]) -> String {
    let mut text = String::new();
    let mut problems: Vec<&str> = measurements.iter().map(|found| found.problem.as_str()).collect();
    problems.dedup();
    for problem in problems {
        let mut of_problem: Vec<&Measurement> = measurements.iter().filter(|found| found.problem == problem).collect();
        of_problem.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
        let _ = writeln!(
            text,
            "\n{problem}\n{:>10} {:>9} {:>9} {:>9} {:>6}  kernel",
            "TFLOP/s", "median ms", "p10", "p90", "calls"
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

/// One kernel serves all problems of a head_dim: the one that is the least behind the fastest, by the geometric mean.
fn advice(measurements: &[Measurement]) -> String {
    let mut text = String::from("\nFor src/variants.rs, by the geometric mean over all problems of a head_dim:\n");
    let mut dims: Vec<u32> = measurements.iter().map(|found| head_dim(found.row)).collect();
    dims.dedup();
    for dim in dims {
        let mut rows: Vec<(&Variant, f64)> = Vec::new();
        for found in measurements.iter().filter(|found| head_dim(found.row) == dim) {
            if rows.iter().all(|(row, _)| row != &found.row) {
                let times =
                    measurements.iter().filter(|other| other.row == found.row).map(|other| other.median_ms.ln());
                let logs: Vec<f64> = times.collect();
                rows.push((found.row, (logs.iter().sum::<f64>() / logs.len() as f64).exp()));
            }
        }
        rows.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (Some(&(best, best_ms)), now) = (rows.first(), rows.iter().find(|(row, _)| VARIANTS.contains(row))) else {
            continue;
        };
        let gain =
            now.map(|(_, now_ms)| format!("{:+.1} % against the row that is there", 100.0 * (now_ms / best_ms - 1.0)));
        let what = if VARIANTS.contains(best) { "keep".to_string() } else { "take".to_string() };
        let _ =
            writeln!(text, "  d{dim}: {what} {}  ({})", as_row(best), gain.unwrap_or_else(|| "no rival".to_string()));
    }
    text
}

/// The tile as it is written there.
fn as_row(row: &Variant) -> String {
    match row.tile {
        Tile::AttentionHopper {
            head_dim,
            head_dim_v,
            block_q,
            block_kv,
            stages,
            consumers,
            cluster,
            ping_pong,
            ..
        } => format!(
            "[{head_dim}, {head_dim_v}, {block_q}, {block_kv}, {stages}, {consumers}], cluster {cluster}, ping_pong {ping_pong}"
        ),
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
            text.contains(&format!("d128: take {}  (+34.8 % against the row that is there)", as_row(candidate))),
            "{text}"
        );
        assert_eq!(csv(&measured).lines().count(), 5);
    }
}
