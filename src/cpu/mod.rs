//! The CPU device: it takes the problem itself, not a launch plan. Blocked over tiles with an online softmax, like
//! the kernels; parallel over rayon's current pool; the same bits for any number of threads, because a task computes
//! whole rows in a fixed order.

pub(crate) mod attention;
mod floats;
pub(crate) mod merge;
pub(crate) mod norm;
mod row_tasks;
mod scratch;
mod simd;
pub(crate) mod softmax;

pub(crate) use simd::InstructionSet;

/// Calls `$function::<T>($arguments)` with the Rust type of a float [`crate::DType`]. Plans admit no other type.
macro_rules! dispatch_float {
    ($dtype:expr, $function:ident ( $($argument:expr),* )) => {
        match $dtype {
            $crate::dtype::DType::F32 => $function::<f32>($($argument),*),
            $crate::dtype::DType::F16 => $function::<half::f16>($($argument),*),
            $crate::dtype::DType::BF16 => $function::<half::bf16>($($argument),*),
            $crate::dtype::DType::I32 | $crate::dtype::DType::U8 => unreachable!("plans for the CPU admit float types only"),
        }
    };
}
pub(crate) use dispatch_float;
