//! What is measured: operations, types and shapes, in the order of their worth, for a run that is cut short.

use std::fmt;

use warpfold::{DType, Target};

use super::shapes::{AttentionShape, RowShape, Shape};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Attention,
    Softmax,
    LayerNorm,
    RmsNorm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub family: Family,
    pub is_backward: bool,
}

/// All of them.
pub const OPERATIONS: [Operation; 8] = {
    const fn both(family: Family) -> [Operation; 2] {
        [Operation { family, is_backward: false }, Operation { family, is_backward: true }]
    }
    let [[a, b], [c, d], [e, f], [g, h]] =
        [both(Family::Attention), both(Family::Softmax), both(Family::LayerNorm), both(Family::RmsNorm)];
    [a, b, c, d, e, f, g, h]
};

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Attention => "attention",
            Family::Softmax => "softmax",
            Family::LayerNorm => "layer_norm",
            Family::RmsNorm => "rms_norm",
        };
        write!(f, "{family} {}", if self.is_backward { "backward" } else { "forward" })
    }
}

impl Operation {
    /// Whether it computes such shapes.
    pub fn takes(&self, shape: &Shape) -> bool {
        (self.family == Family::Attention) == matches!(shape, Shape::Attention(_))
    }

    /// The operations of a name: `softmax`, or `softmax-forward` for one pass; `_` and spaces do for `-`.
    ///
    /// # Errors
    /// The names that there are.
    pub fn named(name: &str) -> Result<Vec<Operation>, String> {
        let plain = |text: &str| text.to_lowercase().replace(['_', ' '], "-");
        let wanted = plain(name);
        let is_wanted = |operation: &&Operation| {
            let full = plain(&operation.to_string());
            full == wanted || full.rsplit_once('-').is_some_and(|(family, _)| family == wanted)
        };
        let found: Vec<Operation> = OPERATIONS.iter().filter(is_wanted).copied().collect();
        match found.is_empty() {
            false => Ok(found),
            true => {
                Err("there are attention, softmax, layer_norm and rms_norm, each also with -forward or -backward"
                    .into())
            }
        }
    }
}

/// One row of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub operation: Operation,
    pub dtype: DType,
    pub shape: Shape,
    /// The sweep that it is a point of, and where.
    pub series: Option<(String, usize)>,
}

const FORWARD: [bool; 1] = [false];
const BACKWARD: [bool; 1] = [true];
const BOTH: [bool; 2] = [false, true];
const ROW_FAMILIES: [Family; 3] = [Family::Softmax, Family::LayerNorm, Family::RmsNorm];

/// A list without repetitions: what comes again only gives its series to the first.
#[derive(Default)]
struct List(Vec<Problem>);

impl List {
    fn add(&mut self, problem: Problem) {
        let is_same = |other: &&mut Problem| {
            (other.operation, other.dtype, &other.shape) == (problem.operation, problem.dtype, &problem.shape)
        };
        match self.0.iter_mut().find(is_same) {
            Some(found) => found.series = found.series.take().or(problem.series),
            None => self.0.push(problem),
        }
    }

    fn attention(&mut self, passes: &[bool], dtypes: &[DType], shape: &AttentionShape) {
        for (is_backward, dtype) in passes.iter().flat_map(|pass| dtypes.iter().map(move |dtype| (*pass, *dtype))) {
            let operation = Operation { family: Family::Attention, is_backward };
            self.add(Problem { operation, dtype, shape: Shape::Attention(shape.clone()), series: None });
        }
    }

    /// Points of series over the length.
    fn attention_series(&mut self, passes: &[bool], dtypes: &[DType], shape: &AttentionShape) {
        self.attention(passes, dtypes, shape);
        let mask = if shape.is_causal { "causal" } else { "dense" };
        let is_point = |problem: &&mut Problem| problem.shape == Shape::Attention(shape.clone());
        for problem in self.0.iter_mut().filter(is_point) {
            let Problem { operation, dtype, .. } = problem;
            problem.series = Some(match shape.is_decoding() {
                true => (format!("{operation} {dtype} d{} one query", shape.head_dim), shape.len_kv),
                false => (format!("{operation} {dtype} d{} {mask}", shape.head_dim), shape.len_q),
            });
        }
    }

    fn rows(&mut self, dtypes: &[DType], shapes: &[[usize; 2]], series: Option<&str>) {
        for [rows, columns] in shapes.iter().copied() {
            for (family, is_backward) in ROW_FAMILIES.into_iter().flat_map(|family| BOTH.map(|pass| (family, pass))) {
                for dtype in dtypes.iter().copied() {
                    let operation = Operation { family, is_backward };
                    let series = series.map(|series| (format!("{operation} {dtype} {series}"), columns));
                    self.add(Problem { operation, dtype, shape: Shape::Rows(RowShape { rows, columns }), series });
                }
            }
        }
    }
}

/// The default list of a device.
pub fn defaults(target: &Target, is_emulated: bool) -> Vec<Problem> {
    match (target, is_emulated) {
        (Target::Cpu, _) => cpu(),
        (_, true) => emulator(),
        (_, false) => gpu(),
    }
}

/// What PyTorch was measured on there, then sizes.
fn cpu() -> Vec<Problem> {
    let dtypes = [DType::F32, DType::BF16];
    let mut list = List::default();
    let of = |len, head_dim| AttentionShape::new(1, 8, len, head_dim);
    let decoding = |keys| AttentionShape { len_q: 1, len_kv: keys, ..AttentionShape::new(1, 32, 1, 128) };
    list.attention(&FORWARD, &dtypes, &of(2048, 64));
    list.attention(&FORWARD, &dtypes, &of(2048, 64).causal());
    list.attention(&BACKWARD, &dtypes, &of(1024, 64).causal());
    list.attention(&FORWARD, &dtypes, &decoding(4096));
    list.rows(&dtypes, &[[1024, 1024], [4096, 4096]], None);
    list.attention(&FORWARD, &dtypes, &of(512, 64));
    list.attention(&BOTH, &dtypes, &of(2048, 128).causal());
    list.attention(&FORWARD, &dtypes, &of(4096, 128).causal());
    for len in [256, 512, 1024, 2048, 4096] {
        list.attention_series(&BOTH, &dtypes, &of(len, 64).causal());
    }
    for keys in [1024, 4096, 16384] {
        list.attention_series(&FORWARD, &dtypes, &decoding(keys));
    }
    let elements: usize = 1 << 20;
    let shapes = [256, 1024, 4096, 16384].map(|columns| [elements / columns, columns]);
    list.rows(&dtypes, &shapes, Some("of 2^20 elements"));
    list.0
}

/// 16,384 tokens of 2048 columns, as is usual, then rows, decoding, and what else attention can do.
fn gpu() -> Vec<Problem> {
    const TOKENS: usize = 16384;
    const COLUMNS: usize = 2048;
    let bf16 = [DType::BF16];
    let mut list = List::default();
    for len in [8192, 2048, 512, 16384, 4096, 1024] {
        for head_dim in [128, 64, 256] {
            let shape = AttentionShape::new(TOKENS / len, COLUMNS / head_dim, len, head_dim);
            list.attention_series(&BOTH, &bf16, &shape);
            list.attention_series(&BOTH, &bf16, &shape.causal());
        }
        if len == 8192 {
            // Rows and decoding are worth more than the other lengths.
            let elements: usize = 64 << 20;
            let shapes = [1024, 4096, 16384].map(|columns| [elements / columns, columns]);
            list.rows(&[DType::BF16, DType::F32], &shapes, Some("of 2^26 elements"));
            for keys in [8192, 32768, 2048] {
                let heads = AttentionShape { heads_kv: 8, ..AttentionShape::new(16, 32, 1, 128) };
                list.attention_series(&FORWARD, &bf16, &AttentionShape { len_kv: keys, ..heads });
            }
        }
    }
    let grouped = AttentionShape { heads_kv: 4, ..AttentionShape::new(4, 16, 4096, 128).causal() };
    list.attention(&BOTH, &bf16, &grouped);
    list.attention(
        &BOTH,
        &bf16,
        &AttentionShape { window: Some(1023), ..AttentionShape::new(1, 16, 16384, 128).causal() },
    );
    let lengths = [6000, 4097, 3000, 1500, 1023, 513, 200, 51];
    list.attention(&BOTH, &bf16, &AttentionShape::new(1, 16, 1, 128).causal().packed(&lengths));
    list.attention(&BOTH, &[DType::F16, DType::F32], &AttentionShape::new(4, 16, 4096, 128).causal());
    // Launches of a few microseconds.
    list.rows(&bf16, &[[256, 1024], [1024, 1024]], None);
    list.0
}

/// A few tiles and rows, that none fills.
fn emulator() -> Vec<Problem> {
    let mut list = List::default();
    let shape = AttentionShape { heads_q: 2, len_kv: 170, ..AttentionShape::new(1, 1, 150, 64) };
    list.attention(&BOTH, &[DType::BF16, DType::F32], &shape.clone().causal());
    list.attention(&FORWARD, &[DType::BF16], &AttentionShape { len_q: 1, ..shape.clone() });
    list.attention(&BOTH, &[DType::BF16], &AttentionShape { window: Some(40), ..shape.clone().causal() });
    list.attention(&BOTH, &[DType::BF16], &shape.causal().packed(&[70, 9, 100]));
    list.rows(&[DType::BF16, DType::F32], &[[9, 1027]], None);
    list.0
}

/// These shapes with every operation that takes them.
pub fn of_shapes(shapes: &[Shape], operations: &[Operation], dtypes: &[DType]) -> Vec<Problem> {
    let mut list = List::default();
    for (shape, operation) in shapes.iter().flat_map(|shape| operations.iter().map(move |one| (shape, *one))) {
        for dtype in dtypes.iter().copied().filter(|_| operation.takes(shape)) {
            list.add(Problem { operation, dtype, shape: shape.clone(), series: None });
        }
    }
    list.0
}

/// The list for these operations and types only, or for all types where none is named. f16 takes the place of bf16, too.
pub fn narrowed(problems: Vec<Problem>, operations: &[Operation], dtypes: &[DType]) -> Vec<Problem> {
    let mut list = List::default();
    for problem in problems.into_iter().filter(|problem| operations.contains(&problem.operation)) {
        if dtypes.is_empty() {
            list.add(problem.clone());
        }
        for dtype in dtypes.iter().copied() {
            if dtype == problem.dtype {
                list.add(problem.clone());
            } else if (dtype, problem.dtype) == (DType::F16, DType::BF16) {
                let series = problem.series.clone().map(|(name, size)| (name.replace("bf16", "f16"), size));
                list.add(Problem { dtype, series, ..problem.clone() });
            }
        }
    }
    list.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use warpfold::GpuTarget;

    #[test]
    fn operations_go_by_name() {
        assert_eq!(Operation::named("attention").map(|found| found.len()), Ok(2));
        let names = ["rms_norm-backward", "rms-norm backward", "RMS_NORM_BACKWARD"].map(Operation::named);
        assert!(names.iter().all(|found| *found == Ok(vec![OPERATIONS[7]])), "{names:?}");
        assert!(Operation::named("norm").unwrap_err().contains("layer_norm"));
    }

    #[test]
    fn the_lists_hold_each_problem_once_and_every_operation() {
        let targets =
            [(Target::Cpu, false), (Target::Gpu(GpuTarget::H100), false), (Target::Gpu(GpuTarget::H100), true)];
        for problems in targets.map(|(target, is_emulated)| defaults(&target, is_emulated)) {
            for operation in OPERATIONS {
                assert!(problems.iter().any(|problem| problem.operation == operation), "{operation}");
            }
            for (index, problem) in problems.iter().enumerate() {
                assert!(problem.operation.takes(&problem.shape));
                let is_again = |other: &Problem| {
                    Problem { series: None, ..other.clone() } == Problem { series: None, ..problem.clone() }
                };
                assert!(!problems[..index].iter().any(is_again), "{problem:?}");
            }
        }
    }

    #[test]
    fn a_series_has_every_size_also_where_another_list_named_the_problem_first() {
        let sizes = |problems: &[Problem], name: &str| {
            let mut sizes: Vec<usize> = problems
                .iter()
                .filter_map(|problem| problem.series.as_ref().filter(|series| series.0 == name).map(|series| series.1))
                .collect();
            sizes.sort_unstable();
            sizes
        };
        assert_eq!(sizes(&cpu(), "attention forward f32 d64 causal"), [256, 512, 1024, 2048, 4096]);
        assert_eq!(sizes(&cpu(), "attention forward bf16 d128 one query"), [1024, 4096, 16384]);
        assert_eq!(sizes(&cpu(), "softmax forward bf16 of 2^20 elements"), [256, 1024, 4096, 16384]);
        assert_eq!(sizes(&gpu(), "attention backward bf16 d64 dense"), [512, 1024, 2048, 4096, 8192, 16384]);
        let f16 = narrowed(gpu(), &OPERATIONS, &[DType::F16]);
        assert_eq!(sizes(&f16, "attention backward f16 d64 dense"), [512, 1024, 2048, 4096, 8192, 16384]);
        assert!(f16.iter().all(|problem| problem.dtype == DType::F16));
        assert_eq!(narrowed(gpu(), &OPERATIONS, &[]), gpu());
    }

    #[test]
    fn shapes_go_to_the_operations_that_take_them() {
        let shapes = ["s64", "3x4"].map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")));
        let problems = of_shapes(&shapes, &Operation::named("softmax").unwrap_or_default(), &[DType::F32]);
        assert_eq!(problems.len(), 2);
        assert!(problems.iter().all(|problem| problem.shape.to_string() == "3x4"));
        assert_eq!(of_shapes(&shapes, &OPERATIONS, &[DType::F32, DType::BF16]).len(), 2 * 2 + 6 * 2);
    }
}
