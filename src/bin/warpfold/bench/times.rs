//! Statistics of times, and how many calls, sets of tensors and calls a graph a measurement takes. Nothing here runs anything.

/// The median and the spread of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    pub median_ms: f64,
    pub p10_ms: f64,
    pub p90_ms: f64,
}

/// What a clock found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Of single calls.
    pub times: Times,
    /// Measured calls, in all.
    pub calls: usize,
    /// The calls came from a CUDA graph, several a time.
    pub is_graph: bool,
}

impl Times {
    /// Of at least one time.
    pub fn new(mut times_ms: Vec<f64>) -> Times {
        times_ms.sort_by(f64::total_cmp);
        let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share).round() as usize];
        Times { median_ms: at(0.5), p10_ms: at(0.1), p90_ms: at(0.9) }
    }
}

/// How many samples fit into the budget, within bounds.
pub fn num_samples(expected_ms: f64, budget_ms: f64, [least, most]: [usize; 2]) -> usize {
    ((budget_ms / expected_ms.max(1e-6)) as usize).clamp(least, most)
}

/// How many calls share one reading of a clock that is only exact to `resolution_ms` a hundred times over.
pub fn calls_per_sample(expected_ms: f64, resolution_ms: f64) -> usize {
    let least_ms = 100.0 * resolution_ms;
    if expected_ms >= least_ms { 1 } else { (least_ms / expected_ms.max(1e-6)).ceil() as usize }
}

/// Calls that are shorter come from CUDA graphs: the host needs some microseconds for a launch, and would be what is measured.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "graphs are a GPU's"))]
pub const GRAPH_BELOW_MS: f64 = 0.020;

/// How many calls a graph holds: none for long calls; else enough that the graph's own launch does not count, and every set of
/// tensors as often as every other.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "graphs are a GPU's"))]
pub fn calls_per_graph(expected_ms: f64, num_sets: usize) -> Option<usize> {
    const GRAPH_MS: f64 = 1.0;
    const CALLS_MAX: usize = 4096;
    if expected_ms >= GRAPH_BELOW_MS {
        return None;
    }
    let wanted = (GRAPH_MS / expected_ms.max(1e-4)).ceil() as usize;
    let rounds = wanted.div_ceil(num_sets).min(CALLS_MAX / num_sets.max(1)).max(1);
    Some(rounds * num_sets)
}

/// Memory through which a measurement rotates, so that no call finds its tensors in a cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// The last-level cache.
    pub cache_bytes: usize,
    /// What may be filled with tensors.
    pub memory_bytes: usize,
}

impl Rotation {
    /// More sets would take longer to make than to time.
    const SETS_MAX: usize = 2048;

    /// How many sets of tensors together exceed the cache threefold; two at least, so that no call has what the last one wrote.
    pub fn num_sets(&self, set_bytes: usize) -> usize {
        let wanted = (3 * self.cache_bytes).div_ceil(set_bytes.max(1)).clamp(2, Rotation::SETS_MAX);
        wanted.min((self.memory_bytes / set_bytes.max(1)).max(1))
    }

    /// Whether so many sets leave the cache behind.
    pub fn is_cold(&self, num_sets: usize, set_bytes: usize) -> bool {
        num_sets * set_bytes >= 3 * self.cache_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_percentiles_are_of_the_sorted_times() {
        let times = Times::new((0..=100).rev().map(f64::from).collect());
        assert_eq!(times, Times { median_ms: 50.0, p10_ms: 10.0, p90_ms: 90.0 });
        assert_eq!(Times::new(vec![7.0]), Times { median_ms: 7.0, p10_ms: 7.0, p90_ms: 7.0 });
    }

    #[test]
    fn samples_fill_the_budget_within_bounds() {
        assert_eq!(num_samples(2.0, 100.0, [5, 1000]), 50);
        assert_eq!(num_samples(1000.0, 100.0, [5, 1000]), 5);
        assert_eq!(num_samples(0.0, 100.0, [5, 1000]), 1000);
    }

    #[test]
    fn short_calls_share_a_reading() {
        assert_eq!(calls_per_sample(0.01, 1e-4), 1);
        assert_eq!(calls_per_sample(0.001, 1e-4), 10);
    }

    #[test]
    fn graphs_serve_short_calls_and_hold_every_set_alike() {
        assert_eq!(calls_per_graph(0.020, 3), None);
        assert_eq!(calls_per_graph(0.010, 3), Some(102));
        assert_eq!(calls_per_graph(0.010, 2048), Some(2048));
        for (expected_ms, num_sets) in [(0.0, 7), (0.001, 1), (0.019, 13), (0.002, 3000)] {
            let calls = calls_per_graph(expected_ms, num_sets).expect("they are short");
            assert!(calls.is_multiple_of(num_sets) && calls > 0 && (calls <= 4096 || calls == num_sets), "{calls}");
        }
    }

    #[test]
    fn sets_exceed_the_cache_threefold() {
        let rotation = Rotation { cache_bytes: 50 << 20, memory_bytes: 20 << 30 };
        assert_eq!(rotation.num_sets(100 << 20), 2);
        assert_eq!(rotation.num_sets(1 << 30), 2);
        assert_eq!(rotation.num_sets(10 << 20), 15);
        assert!(rotation.is_cold(15, 10 << 20) && !rotation.is_cold(14, 10 << 20));
        // Tiny tensors stay in the cache, which the record says.
        assert!(!rotation.is_cold(rotation.num_sets(64), 64));
        // What does not fit twice is there once.
        assert_eq!(Rotation { memory_bytes: 1 << 30, ..rotation }.num_sets(600 << 20), 1);
    }
}
