//! The kernels that plans choose, over the sizes that attention is usually measured at.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use warpfold::{Device, variants};

use crate::Arguments;
use crate::problem::{Inputs, Problem, Trial};
use crate::rows;
use crate::timing::{Timer, Times};

/// 16,384 tokens of 2048 columns.
const TOKENS: usize = 16384;
const COLUMNS: usize = 2048;

/// Times all of it, as lines of CSV: what, problem, median, p10 and p90 in ms, TFLOP/s or GB/s. Attention is checked first; softmax and
/// norms are timed only, on shapes that the differential tests have no part in.
pub fn run(arguments: &Arguments, device: &Device, timer: Option<&Timer>) -> Result<()> {
    let Some(timer) = timer else { bail!("only a GPU has times: --device cuda:0") };
    let mut csv = String::from("operation,problem,median_ms,p10_ms,p90_ms,rate,unit\n");
    let mut failures = 0;
    let mut line = |operation: &str, problem: &str, times: Result<(Times, f64, &'static str)>| {
        let line = match times {
            Ok((times, work, unit)) => {
                let Times { median_ms, p10_ms, p90_ms } = times;
                format!("{operation},{problem},{median_ms:.5},{p10_ms:.5},{p90_ms:.5},{:.1},{unit}", work / median_ms)
            }
            Err(error) => {
                failures += 1;
                format!("{operation},{problem},WRONG: {error:#}")
            }
        };
        println!("{line}");
        let _ = writeln!(csv, "{line}");
        if let Some(file) = &arguments.csv {
            // Written as it grows: a run cut short still counts.
            let _ = std::fs::write(file, &csv);
        }
    };
    let named = |name: &String| variants::named(name).with_context(|| format!("there is no kernel {name}"));
    let kernels = arguments.kernels.iter().map(named).collect::<Result<Vec<_>>>()?;
    let is_wanted = |name: &str| arguments.name.as_ref().is_none_or(|part| name.contains(part.as_str()));
    for problem in problems() {
        let name = problem.to_string();
        if !is_wanted(&name) {
            continue;
        }
        let inputs = Inputs::new(device, &problem)?;
        for (operation, trial) in [
            ("attention forward", Trial::forward(&problem, device)?),
            ("attention backward", Trial::backward(&problem, device)?),
        ] {
            let trial = trial.with_kernels(&problem, &kernels)?;
            let times = inputs.check(&trial).and_then(|()| inputs.time(&trial, timer, arguments.budget_ms));
            line(operation, &name, times.map(|times| (Times::new(times), trial.flops() as f64 / 1e9, "TFLOP/s")));
        }
    }
    for bench in rows::benches() {
        let name = bench.to_string();
        if is_wanted(&name) {
            let times = bench.run(device, timer, arguments.budget_ms);
            line(bench.operation, &name, times.map(|times| (Times::new(times), bench.bytes() / 1e6, "GB/s")));
        }
    }
    if failures > 0 {
        bail!("{failures} results are wrong");
    }
    Ok(())
}

/// In the order of worth, for a run cut short.
fn problems() -> Vec<Problem> {
    let mut problems = Vec::new();
    for len in [8192, 2048, 512, 16384, 4096, 1024] {
        for head_dim in [128, 64, 256] {
            for is_causal in [false, true] {
                let heads = COLUMNS / head_dim;
                problems.push(Problem { shape: [TOKENS / len, heads, heads, len, len], head_dim, is_causal });
            }
        }
    }
    problems
}
