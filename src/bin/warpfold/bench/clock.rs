//! What times calls: the host's clock, or events of a GPU.

use std::time::Instant;

use anyhow::Result;

#[cfg(feature = "cuda")]
use super::cuda::Events;
use super::times::{Measured, Times, calls_per_sample, num_samples};

/// What a reading of the host's clock may be off by, with what it costs.
const RESOLUTION_MS: f64 = 1e-4;

/// Samples of one problem, at least and at most.
const SAMPLES: [usize; 2] = [5, 2000];

pub enum Clock {
    Host,
    #[cfg(feature = "cuda")]
    Cuda(Events),
}

impl Clock {
    /// Times single calls for about `budget_ms` in all. Calls rotate through `num_sets` sets of tensors.
    pub fn measure(
        &self,
        call: &mut dyn FnMut() -> Result<()>,
        #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "the host's clock needs no rotation"))]
        num_sets: usize,
        budget_ms: f64,
    ) -> Result<Measured> {
        match self {
            Clock::Host => host(call, budget_ms),
            #[cfg(feature = "cuda")]
            Clock::Cuda(events) => events.measure(call, num_sets, budget_ms),
        }
    }

    /// The time for which a call keeps the thread that makes it, which on a GPU is less than until its result is there.
    pub fn measure_host(&self, call: &mut dyn FnMut() -> Result<()>, budget_ms: f64) -> Result<Measured> {
        match self {
            Clock::Host => host(call, budget_ms),
            #[cfg(feature = "cuda")]
            Clock::Cuda(events) => {
                // The queue is emptied between samples, as a full one would keep the thread waiting.
                samples(call, &|| events.synchronize(), budget_ms, 64)
            }
        }
    }
}

/// Calls that return when they are done.
pub fn host(call: &mut dyn FnMut() -> Result<()>, budget_ms: f64) -> Result<Measured> {
    samples(call, &|| Ok(()), budget_ms, usize::MAX)
}

fn samples(
    call: &mut dyn FnMut() -> Result<()>,
    settle: &dyn Fn() -> Result<()>,
    budget_ms: f64,
    calls_max: usize,
) -> Result<Measured> {
    let mut timed = |calls: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        let time_ms = start.elapsed().as_secs_f64() * 1e3 / calls as f64;
        settle()?;
        Ok(time_ms)
    };
    // Caches and predictors warm up, and a sleeping thread pool wakes. What is left of the budget decides how long that takes.
    let start = Instant::now();
    let mut expected_ms = timed(1)?;
    while start.elapsed().as_secs_f64() * 1e3 + expected_ms < 0.1 * budget_ms {
        expected_ms = timed(1)?;
    }
    let mut calls = calls_per_sample(expected_ms, RESOLUTION_MS).min(calls_max);
    if calls > 1 {
        // One short call says little: reading the clock was most of it.
        expected_ms = timed(calls)?;
        calls = calls_per_sample(expected_ms, RESOLUTION_MS).min(calls_max);
    }
    let count = num_samples(expected_ms * calls as f64, budget_ms, SAMPLES);
    let times_ms = (0..count).map(|_| timed(calls)).collect::<Result<Vec<f64>>>()?;
    Ok(Measured { times: Times::new(times_ms), calls: count * calls, is_graph: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn the_host_clock_times_single_calls() {
        let mut calls = 0;
        let found = host(
            &mut || {
                calls += 1;
                sleep(Duration::from_millis(2));
                Ok(())
            },
            20.0,
        )
        .expect("nothing fails");
        assert!((2.0..20.0).contains(&found.times.median_ms), "{found:?}");
        assert!((5..=10).contains(&found.calls) && calls > found.calls, "{found:?}, {calls} with those that warm up");
    }

    #[test]
    fn short_calls_are_timed_together_and_failures_end_it() {
        let found = host(&mut || Ok(()), 1.0).expect("nothing fails");
        assert!(found.calls > 10_000 && found.times.median_ms < 1e-4, "{found:?}");
        assert!(host(&mut || anyhow::bail!("no"), 1.0).is_err());
    }
}
