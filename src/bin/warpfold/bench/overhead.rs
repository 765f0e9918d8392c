//! What a call costs the thread that makes it, on problems so small that they take no time themselves.

use anyhow::Result;
use warpfold::{DType, Target};

use super::clock::Clock;
use super::problems::{OPERATIONS, Operation, Problem};
use super::shapes::Shape;
use super::times::Measured;
use super::trial::Workshop;

/// One figure.
pub struct Overhead {
    pub operation: Operation,
    pub dtype: DType,
    /// What the thread did.
    pub what: &'static str,
    pub shape: Shape,
    pub measured: Measured,
}

/// Of these operations: a call with a prepared plan and given memory, the plan, and the call that does it all itself.
pub fn measure(
    workshop: &Workshop<'_>,
    clock: &Clock,
    operations: &[Operation],
    budget_ms: f64,
) -> Result<Vec<Overhead>> {
    // Kernels of their own are chosen for 16 bits on most GPUs, and f32 is what processors compute with.
    let dtype = if workshop.device.target() == Target::Cpu { DType::F32 } else { DType::BF16 };
    let mut found = Vec::new();
    for operation in OPERATIONS.into_iter().filter(|operation| operations.contains(operation)) {
        let shapes = ["b1,h1,s16,d64", "1x64"].map(str::parse::<Shape>);
        for shape in
            shapes.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().filter(|shape| operation.takes(shape))
        {
            let problem = Problem { operation, dtype, shape: shape.clone(), series: None };
            // One set of tensors: the host is what is timed.
            let mut trial = Workshop { rotation: None, ..*workshop }.trial(&problem)?;
            let mut add = |what, measured| {
                found.push(Overhead { operation, dtype, what, shape: shape.clone(), measured });
            };
            add("prepared call", clock.measure_host(&mut || trial.call(), budget_ms)?);
            add("plan", clock.measure_host(&mut || trial.plan(), budget_ms)?);
            add("allocating call", clock.measure_host(&mut || trial.allocating_call(), budget_ms)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpfold::Device;

    #[test]
    fn every_operation_has_three_figures() {
        let device = Device::cpu();
        let workshop = Workshop { device: &device, rotation: None, kernels: &[] };
        let found = measure(&workshop, &Clock::Host, &OPERATIONS, 0.5).expect("nothing fails");
        assert_eq!(found.len(), 3 * OPERATIONS.len());
        for overhead in &found {
            assert!(overhead.measured.times.median_ms > 0.0, "{} {}", overhead.operation, overhead.what);
        }
    }
}
