//! CUDA events around calls, or around graphs of calls where these are short.

use std::sync::Arc;

use anyhow::{Context, Result};
use warpfold::cuda::cudarc::driver::{CudaEvent, CudaGraph, CudaStream, sys};

use crate::bench::times::{Measured, Times, calls_per_graph, num_samples};

/// Calls before the measured ones: clocks rise, and the caches hold what they will hold.
const WARM_UP_CALLS: usize = 5;

/// Measured samples, at least and at most.
const SAMPLES: [usize; 2] = [20, 2000];

/// The stream that calls are timed on.
pub struct Events {
    stream: Arc<CudaStream>,
}

impl Events {
    pub fn new(stream: Arc<CudaStream>) -> Events {
        Events { stream }
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub fn synchronize(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }

    /// The times of single calls, for about `budget_ms` in all.
    pub fn measure(&self, call: &mut dyn FnMut() -> Result<()>, num_sets: usize, budget_ms: f64) -> Result<Measured> {
        let expected_ms = Times::new(self.times_ms(call, WARM_UP_CALLS)?).median_ms;
        let Some(calls) = calls_per_graph(expected_ms, num_sets) else {
            let count = num_samples(expected_ms, budget_ms, SAMPLES);
            return Ok(Measured { times: Times::new(self.times_ms(call, count)?), calls: count, is_graph: false });
        };
        let graph = self.capture(call, calls)?;
        graph.upload()?;
        let mut launch = || Ok(graph.launch()?);
        let expected_ms = Times::new(self.times_ms(&mut launch, WARM_UP_CALLS)?).median_ms;
        let count = num_samples(expected_ms, budget_ms, SAMPLES);
        let times_ms = self.times_ms(&mut launch, count)?.into_iter().map(|time_ms| time_ms / calls as f64);
        Ok(Measured { times: Times::new(times_ms.collect()), calls: count * calls, is_graph: true })
    }

    /// So many calls as one graph.
    fn capture(&self, call: &mut dyn FnMut() -> Result<()>, calls: usize) -> Result<CudaGraph> {
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let queued = (0..calls).try_for_each(|_| call());
        // A capture is ended whatever came of it, or the stream could not be used again.
        let graph =
            self.stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        queued?;
        graph?.context("the calls queued nothing")
    }

    fn event(&self) -> Result<CudaEvent> {
        // Other flags would have no times.
        Ok(self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?)
    }

    /// The times between the starts of calls that follow one another. All are queued before the first one is waited for.
    fn times_ms(&self, call: &mut dyn FnMut() -> Result<()>, count: usize) -> Result<Vec<f64>> {
        let mut events = vec![self.event()?];
        for _ in 0..count {
            call()?;
            events.push(self.event()?);
        }
        events.windows(2).map(|pair| Ok(f64::from(pair[0].elapsed_ms(&pair[1])?))).collect()
    }
}
