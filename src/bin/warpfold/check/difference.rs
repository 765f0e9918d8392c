//! Two devices' results, bit by bit.

use std::fmt;

use warpfold::DType;
use warpfold::reference::compare::{largest, ulp};

use crate::recipes::Output;

/// How the results of some cases differ on two devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    cases: u64,
    identical_cases: u64,
    results: u64,
    differing: u64,
    worst: Option<Worst>,
}

#[derive(Clone, Debug, PartialEq)]
struct Worst {
    /// Of the last place, at the largest number of the tensor: what is next to 0 has no scale of its own.
    units: f64,
    name: &'static str,
    dtype: DType,
}

impl Difference {
    /// Of one case.
    pub fn new(ours: &[Output], theirs: &[Output]) -> Difference {
        let mut difference = Difference { cases: 1, ..Difference::default() };
        for (ours, theirs) in ours.iter().zip(theirs) {
            let unit = ulp(largest(&ours.values), ours.dtype);
            for (a, b) in ours.values.iter().zip(&theirs.values) {
                difference.results += 1;
                if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) {
                    continue;
                }
                difference.differing += 1;
                difference.keep(Worst { units: (a - b).abs() / unit, name: ours.name, dtype: ours.dtype });
            }
        }
        difference.identical_cases = u64::from(difference.differing == 0);
        difference
    }

    fn keep(&mut self, worst: Worst) {
        if self.worst.as_ref().is_none_or(|kept| worst.units > kept.units) {
            self.worst = Some(worst);
        }
    }

    pub fn add(&mut self, other: Difference) {
        self.cases += other.cases;
        self.identical_cases += other.identical_cases;
        self.results += other.results;
        self.differing += other.differing;
        other.worst.into_iter().for_each(|worst| self.keep(worst));
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { cases, identical_cases, results, differing, worst } = self;
        match worst {
            None => write!(f, "all {results} results have the same bits on both devices"),
            Some(Worst { units, name, dtype }) => write!(
                f,
                "the same bits on both devices in {identical_cases} of {cases} cases; {differing} of {results} results differ, by at \
                 most {units:.1} units in the last place of the largest ({name}, {dtype})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dtype: DType, values: &[f64]) -> [Output; 1] {
        [Output { name: "y", dtype, values: values.to_vec() }]
    }

    #[test]
    fn differences_add_up() {
        let exact = output(DType::F32, &[1.0, f64::NAN, f64::NEG_INFINITY]);
        let same = Difference::new(&exact, &exact);
        assert_eq!(same.to_string(), "all 3 results have the same bits on both devices");
        // The unit at 1 and below 2, whatever the size of what differs.
        let unit = 2f64.powi(-10);
        let (ours, theirs) =
            (output(DType::F16, &[1.5, 0.0, 1e-6]), output(DType::F16, &[1.5, -0.0, 1e-6 + 3.0 * unit]));
        let mut all = Difference::new(&ours, &theirs);
        all.add(same);
        let text = all.to_string();
        assert!(text.contains("in 1 of 2 cases; 2 of 6 results differ, by at most 3.0 units"), "{text}");
        assert!(text.ends_with("(y, f16)"), "{text}");
    }
}
