//! Softmax and layer norm on every device against the float64 oracle.

mod common;

use common::rows::{RowsAttempt, check_softmax_of_special_values};
use common::{DTYPES, PLACEMENTS, Placement, devices, small};
use warpfold::DType;

/// One row length for each reason: single elements, around a vector, a warp, a rung of the ladder, and past the last one.
fn columns() -> Vec<usize> {
    let all = [1, 2, 3, 7, 8, 9, 31, 33, 127, 129, 248, 249, 257, 1000, 1017, 1025, 3584, 4095, 8191, 8193, 20_000];
    all.into_iter().filter(|columns| !small() || *columns <= 1025).collect()
}

#[test]
fn softmax_agrees_with_the_oracle() {
    for device in devices() {
        for columns in columns() {
            for dtype in DTYPES {
                RowsAttempt::new(&[5, columns], dtype, Placement::Contiguous).check_softmax(&device, "row length");
            }
        }
    }
}

#[test]
fn layer_norm_agrees_with_the_oracle() {
    for device in devices() {
        for columns in columns() {
            for dtype in DTYPES {
                let attempt = RowsAttempt::new(&[5, columns], dtype, Placement::Contiguous);
                attempt.check_layer_norm(&device, true, true, "row length");
            }
        }
    }
}

#[test]
fn every_placement_agrees_with_the_oracle() {
    for device in devices() {
        for placement in PLACEMENTS {
            for other in PLACEMENTS {
                for dtype in DTYPES {
                    for columns in [13, 300, 1100] {
                        let mut attempt = RowsAttempt::new(&[2, 3, 2, columns], dtype, placement);
                        attempt.placements[1] = other;
                        attempt.check_softmax(&device, "placement");
                        attempt.check_layer_norm(&device, true, true, "placement");
                    }
                }
            }
        }
    }
}

#[test]
fn weight_and_bias_are_optional() {
    for device in devices() {
        for (with_weight, with_bias) in [(false, false), (true, false), (false, true)] {
            for columns in [100, 9000] {
                let attempt = RowsAttempt::new(&[3, columns], DType::F16, Placement::Contiguous);
                attempt.check_layer_norm(&device, with_weight, with_bias, "optional vectors");
            }
        }
    }
}

/// `0.01 * randn + 100` leaves no digits to `E[x^2] - E[x]^2`.
#[test]
fn layer_norm_keeps_the_digits_of_rows_with_a_large_offset() {
    for device in devices() {
        for columns in [64, 1000, 5000, 20_000] {
            let attempt = RowsAttempt {
                mean: 100.0,
                spread: 0.01,
                ..RowsAttempt::new(&[4, columns], DType::F32, Placement::Contiguous)
            };
            attempt.check_layer_norm(&device, false, false, "large offset");
        }
    }
}

#[test]
fn softmax_of_large_and_of_infinite_values() {
    for device in devices() {
        for mean in [1e4, -1e4] {
            let attempt =
                RowsAttempt { mean, spread: 5.0, ..RowsAttempt::new(&[3, 700], DType::F32, Placement::Contiguous) };
            attempt.check_softmax(&device, "large values");
        }
        for columns in [5, 600, 5000, 20_000] {
            for dtype in DTYPES {
                check_softmax_of_special_values(&device, dtype, columns, "special values");
            }
        }
    }
}
