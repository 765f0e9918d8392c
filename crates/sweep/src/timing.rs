//! CUDA events around single calls.

use std::sync::Arc;

use anyhow::{Context, Result};
use warpfold::Device;
use warpfold::cuda::cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys};

/// Calls before the measured ones: clocks rise, and the caches hold what they will hold.
const WARM_UP_CALLS: usize = 5;
/// Measured calls, at least and at most.
const CALLS_MIN: usize = 20;
const CALLS_MAX: usize = 2000;

/// The stream that calls are timed on.
pub struct Timer {
    stream: Arc<CudaStream>,
}

impl Timer {
    /// A device `cuda:N` whose work is ordered on the timer's stream.
    pub fn open(name: &str) -> Result<(Device, Timer)> {
        // cudarc panics where there is no driver; warpfold looks first.
        name.parse::<Device>()?;
        let ordinal = name.strip_prefix("cuda:").context("only cuda:N has events")?.parse()?;
        let stream = CudaContext::new(ordinal)?.new_stream()?;
        Ok((Device::cuda_on(stream.clone())?, Timer { stream }))
    }

    fn event(&self) -> Result<CudaEvent> {
        // Other flags would have no times.
        Ok(self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?)
    }

    /// The times of single calls, for about `budget_ms` in all. All are queued before the first one is waited for.
    pub fn times_ms(&self, call: &mut dyn FnMut() -> Result<()>, budget_ms: f64) -> Result<Vec<f64>> {
        let mut measure = |count: usize| -> Result<Vec<f64>> {
            let mut events = vec![self.event()?];
            for _ in 0..count {
                call()?;
                events.push(self.event()?);
            }
            events.windows(2).map(|pair| Ok(f64::from(pair[0].elapsed_ms(&pair[1])?))).collect()
        };
        let warm_up = measure(WARM_UP_CALLS)?;
        let expected_ms = warm_up.last().copied().unwrap_or(1.0).max(1e-3);
        measure(((budget_ms / expected_ms) as usize).clamp(CALLS_MIN, CALLS_MAX))
    }
}

/// The median and the spread of times.
pub struct Times {
    pub median_ms: f64,
    pub p10_ms: f64,
    pub p90_ms: f64,
}

impl Times {
    pub fn new(mut times_ms: Vec<f64>) -> Times {
        times_ms.sort_by(f64::total_cmp);
        let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share).round() as usize];
        Times { median_ms: at(0.5), p10_ms: at(0.1), p90_ms: at(0.9) }
    }
}
