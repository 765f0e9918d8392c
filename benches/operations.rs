//! The operations on the CPU device, or on the one that `WARPFOLD_BENCH_DEVICE` names: `cpu:avx2`, or `cuda:0`, which is timed by
//! events. Each bench holds what it times to the oracle, on a sample of rows. On a GPU, tensors may stay in the L2 cache from call to
//! call; `warpfold bench` rotates them.

use std::hint::black_box;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput};
use half::bf16;
use warpfold::reference::{self, AttentionCase, Broadcast, NormCase, SoftmaxCase};
use warpfold::{
    Attention, AttentionOutputs, BackwardInputs, BackwardSpec, DType, Device, Mask, Norm, NormBackwardInputs,
    NormInputs, Qkv, Softmax, SoftmaxBackwardSpec, SoftmaxSpec, Tensor,
};

fn upload(device: &Device, dtype: DType, seed: u64, shape: &[usize]) -> Tensor {
    let mut random = fastrand::Rng::with_seed(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.f32() * 2.0 - 0.7).collect();
    match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            Tensor::from_slice(device, &values, shape)
        }
        _ => Tensor::from_slice(device, &values, shape),
    }
    .expect("memory of the device")
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    reference::from_f32(&tensor.to_vec_f32().expect("a float tensor"))
}

/// The largest difference must be within a few roundings of the type; benches time right results only.
fn check(what: &str, dtype: DType, actual: &[f64], oracle: &[f64]) {
    let allowed = 8.0 * reference::naive::unit_roundoff(dtype) + 2e-6;
    for (index, (actual, oracle)) in actual.iter().zip(oracle).enumerate() {
        assert!((actual - oracle).abs() <= allowed * oracle.abs().max(1.0), "{what}[{index}]: {actual} for {oracle}");
    }
}

/// A problem of one sequence.
#[derive(Clone, Copy)]
struct Problem {
    /// The mask, or option, that it is there for.
    name: &'static str,
    attention: Attention,
    heads: usize,
    len_q: usize,
    len: usize,
    head_dim: usize,
    with_bias: bool,
}

fn problems() -> Vec<Problem> {
    let problem = |name, len, head_dim, attention| Problem {
        name,
        attention,
        heads: 8,
        len_q: len,
        len,
        head_dim,
        with_bias: false,
    };
    let causal = Attention::new().mask(Mask::causal());
    vec![
        problem("no mask", 512, 64, Attention::new()),
        problem("no mask", 2048, 64, Attention::new()),
        problem("causal", 2048, 64, causal),
        problem("causal", 1024, 64, causal),
        problem("causal", 2048, 128, causal),
        problem("causal", 4096, 128, causal),
        Problem { heads: 32, len_q: 1, ..problem("one query", 4096, 128, Attention::new()) },
        problem("sliding window of 256", 2048, 64, Attention::new().mask(Mask::causal().window(Some(255), None))),
        problem("prefix of 512", 2048, 64, Attention::new().mask(Mask::causal().prefix(512))),
        problem("softcap", 1024, 64, causal.softcap(10.0)),
        problem("dropout", 1024, 64, causal.dropout(0.1)),
        Problem { with_bias: true, ..problem("bias", 1024, 64, causal) },
    ]
}

impl Problem {
    fn id(&self, dtype: DType) -> BenchmarkId {
        let Problem { name, heads, len, head_dim, .. } = self;
        BenchmarkId::new(*name, format!("{dtype}_h{heads}_len{len}_d{head_dim}"))
    }

    fn shape(&self, len: usize) -> [usize; 4] {
        [1, self.heads, len, self.head_dim]
    }

    /// q, k, v, the gradient of the output, and a bias of all heads.
    fn tensors(&self, device: &Device, dtype: DType) -> [Tensor; 5] {
        let of = |seed: u64, len: usize| upload(device, dtype, seed, &self.shape(len));
        let [q, k, v, d_output] = [of(1, self.len_q), of(2, self.len), of(3, self.len), of(4, self.len_q)];
        [q, k, v, d_output, upload(device, dtype, 5, &[1, 1, self.len_q, self.len])]
    }

    fn inputs<'a>(&self, [q, k, v, _, bias]: &'a [Tensor; 5]) -> Qkv<'a> {
        let inputs = Qkv::new(q, k, v).dropout_state(7, 1);
        if self.with_bias { inputs.bias(bias) } else { inputs }
    }

    /// The last query of the first head as a problem of its own: the oracle's output and gradient of q. Nobody but the
    /// device knows what is dropped there, as it goes by the query's number.
    fn oracle_of_last_query(&self, tensors: &[Tensor; 5]) -> Option<(Vec<f64>, Vec<f64>)> {
        let Problem { name, len_q, len, head_dim, .. } = *self;
        let case = AttentionCase {
            causal: name != "no mask" && name != "one query",
            window: (if name.starts_with("sliding") { Some(255) } else { None }, None),
            prefix: if name.starts_with("prefix") { 512 } else { 0 },
            softcap: (name == "softcap").then_some(10.0),
            bias: self.with_bias.then(|| {
                let values = wide(&tensors[4])[(len_q - 1) * len..].to_vec();
                Broadcast { shape: [1, 1, 1, len], values }
            }),
            ..AttentionCase::new(1, 1, 1, len, head_dim)
        };
        if name == "dropout" {
            return None;
        }
        let rows = [len_q, len, len, len_q];
        let [q, k, v, d_output] = [0, 1, 2, 3].map(|index| wide(&tensors[index])[..rows[index] * head_dim].to_vec());
        let last = (len_q - 1) * head_dim..len_q * head_dim;
        let forward = reference::attention_forward(&case, &q[last.clone()], &k, &v);
        let backward = reference::attention_backward(&case, &q[last.clone()], &k, &v, &d_output[last], None);
        Some((forward.output, backward.d_q))
    }
}

fn attention<M: Measurement>(criterion: &mut Criterion<M>, device: &Device) {
    let mut group = criterion.benchmark_group("attention_forward");
    let stream = device.stream();
    for (problem, dtype) in problems().into_iter().flat_map(|problem| [(problem, DType::F32), (problem, DType::BF16)]) {
        let tensors = problem.tensors(device, dtype);
        let inputs = problem.inputs(&tensors);
        let plan = problem.attention.plan(&inputs.spec(), &device.target()).expect("a valid problem");
        let mut workspace = plan.workspace(&stream).expect("a workspace");
        let mut output = upload(device, dtype, 0, &problem.shape(problem.len_q));
        let mut run = || {
            plan.forward_into(&stream, &inputs, AttentionOutputs::new(&mut output), &mut workspace).expect("a call");
        };
        group.throughput(Throughput::Elements(plan.flops()));
        group.bench_function(problem.id(dtype), |bencher| bencher.iter(&mut run));

        // A filter may have left it out.
        run();
        let head = problem.len_q * problem.head_dim;
        if let Some((oracle, _)) = problem.oracle_of_last_query(&tensors) {
            check(problem.name, dtype, &wide(&output)[head - problem.head_dim..head], &oracle);
        }
    }
    group.finish();
}

fn attention_backward<M: Measurement>(criterion: &mut Criterion<M>, device: &Device) {
    let mut group = criterion.benchmark_group("attention_backward");
    let stream = device.stream();
    for (problem, dtype) in problems().into_iter().flat_map(|problem| [(problem, DType::F32), (problem, DType::BF16)]) {
        let tensors = problem.tensors(device, dtype);
        let inputs = problem.inputs(&tensors);
        let d_output = &tensors[3];
        let forward = problem.attention.forward(&inputs).expect("a call");
        let backward = BackwardInputs::new(&forward.output, &forward.lse, d_output);
        let mut gradients = problem.attention.backward(&inputs, &backward).expect("a call");
        let spec = BackwardSpec::new(inputs.spec());
        let plan = problem.attention.plan_backward(&spec, &device.target()).expect("a valid problem");
        let mut workspace = plan.workspace(&stream).expect("a workspace");
        let mut run = || {
            plan.backward_into(&stream, &inputs, &backward, gradients.outputs(), &mut workspace).expect("a call");
        };
        group.throughput(Throughput::Elements(plan.flops()));
        group.bench_function(problem.id(dtype), |bencher| bencher.iter(&mut run));

        run();
        let head = problem.len_q * problem.head_dim;
        let (d_q, d_v) = (wide(&gradients.d_q), wide(&gradients.d_v));
        if let Some((_, oracle)) = problem.oracle_of_last_query(&tensors) {
            check(problem.name, dtype, &d_q[head - problem.head_dim..head], &oracle);
            // The weights of a row add up to 1, so the gradients of all values are those of all outputs.
            let total = |values: &[f64]| values.iter().sum::<f64>();
            let (sum, expected) = (total(&d_v), total(&wide(d_output)));
            assert!((sum - expected).abs() <= 2e-3 * expected.abs(), "{}: {sum} for {expected}", problem.name);
        }
        // Whatever q is stretched by, k may be shrunk by, so that both have the same gradient of it.
        if problem.name != "softcap" {
            let along = |tensor: &Tensor, gradient: &[f64]| -> f64 {
                wide(tensor).iter().zip(gradient).map(|(value, gradient)| value * gradient).sum()
            };
            let (by_q, by_k) = (along(&tensors[0], &d_q), along(&tensors[1], &wide(&gradients.d_k)));
            assert!((by_q - by_k).abs() <= 2e-2 * by_q.abs().max(1.0), "{}: {by_q} and {by_k}", problem.name);
        }
    }
    group.finish();
}

/// Row operations, with what they read and write at least.
fn rows<M: Measurement>(criterion: &mut Criterion<M>, device: &Device) {
    for dtype in [DType::F32, DType::BF16] {
        for shape in [[1024, 1024], [4096, 4096]] {
            softmax(criterion, device, dtype, shape);
            norm(criterion, device, dtype, shape, ("layer_norm", Norm::layer(), NormCase::layer(shape[1])));
            norm(criterion, device, dtype, shape, ("rms_norm", Norm::rms(), NormCase::rms(shape[1])));
        }
    }
}

/// Times a call that moves `tensors` tensors of a shape, and runs it at least once: a filter may have left it out.
fn bench_rows<M: Measurement>(
    criterion: &mut Criterion<M>,
    name: &str,
    dtype: DType,
    [rows, columns]: [usize; 2],
    tensors: usize,
    mut run: impl FnMut(),
) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes((tensors * rows * columns * dtype.size_bytes()) as u64));
    let id = BenchmarkId::from_parameter(format!("{dtype}_{rows}x{columns}"));
    group.bench_function(id, |bencher| bencher.iter(&mut run));
    group.finish();
    run();
}

fn softmax<M: Measurement>(criterion: &mut Criterion<M>, device: &Device, dtype: DType, shape: [usize; 2]) {
    let (stream, target) = (device.stream(), device.target());
    let [x, d_y] = [1, 2].map(|seed| upload(device, dtype, seed, &shape));
    let [mut y, mut d_x] = [0, 0].map(|seed| upload(device, dtype, seed, &shape));
    let case = SoftmaxCase::new(&[1, shape[1]]);
    let row = |tensor: &Tensor| wide(tensor)[..shape[1]].to_vec();

    let plan = Softmax::new().plan(&SoftmaxSpec::new(x.view().spec()), &target).expect("a valid problem");
    let mut workspace = plan.workspace(&stream).expect("a workspace");
    bench_rows(criterion, "softmax_forward", dtype, shape, 2, || {
        plan.forward_into(&stream, black_box(&x), &mut y, &mut workspace).expect("a call");
    });
    check("softmax", dtype, &row(&y), &reference::softmax_forward(&case, &row(&x)));

    let spec = SoftmaxBackwardSpec::new(y.view().spec(), d_y.view().spec());
    let plan = Softmax::new().plan_backward(&spec, &target).expect("a valid problem");
    let mut workspace = plan.workspace(&stream).expect("a workspace");
    bench_rows(criterion, "softmax_backward", dtype, shape, 3, || {
        plan.backward_into(&stream, [y.view(), d_y.view()], &mut d_x, &mut workspace).expect("a call");
    });
    check("softmax backward", dtype, &row(&d_x), &reference::softmax_backward(&case, &row(&y), &row(&d_y)));
}

/// With weight and bias, and backward with their gradients and given statistics. An RMS norm has no bias.
fn norm<M: Measurement>(
    criterion: &mut Criterion<M>,
    device: &Device,
    dtype: DType,
    shape: [usize; 2],
    (name, norm, case): (&str, Norm, NormCase),
) {
    let (stream, target) = (device.stream(), device.target());
    let columns = shape[1];
    let [x, d_y] = [1, 2].map(|seed| upload(device, dtype, seed, &shape));
    let [weight, bias] = [3, 4].map(|seed| upload(device, dtype, seed, &[columns]));
    let case = NormCase { weight: Some(wide(&weight)), bias: case.is_centered.then(|| wide(&bias)), ..case };
    let row = |tensor: &Tensor| wide(tensor)[..columns].to_vec();

    let mut inputs = NormInputs::new(&x).weight(&weight);
    if case.is_centered {
        inputs = inputs.bias(&bias);
    }
    let plan = norm.plan(&inputs.spec(), &target).expect("a valid problem");
    let mut forward = norm.return_stats(true).forward(&inputs).expect("a call");
    let mut workspace = plan.workspace(&stream).expect("a workspace");
    bench_rows(criterion, &format!("{name}_forward"), dtype, shape, 2, || {
        plan.forward_into(&stream, &inputs, forward.outputs(), &mut workspace).expect("a call");
    });
    check(name, dtype, &row(&forward.output), &reference::norm_forward(&case, &row(&x)).y);

    let rstd = forward.rstd.as_ref().expect("it was asked for");
    let mut inputs = NormBackwardInputs::new(&d_y, &x).weight(&weight).rstd(rstd);
    if let Some(mean) = &forward.mean {
        inputs = inputs.bias(&bias).mean(mean);
    }
    let plan = norm.plan_backward(&inputs.spec(), &target).expect("a valid problem");
    let mut gradients = norm.backward(&inputs).expect("a call");
    let mut workspace = plan.workspace(&stream).expect("a workspace");
    bench_rows(criterion, &format!("{name}_backward"), dtype, shape, 3, || {
        plan.backward_into(&stream, &inputs, gradients.outputs(), &mut workspace).expect("a call");
    });
    let oracle = reference::norm_backward(&case, &row(&x), &row(&d_y), None);
    check(name, dtype, &row(&gradients.d_x), &oracle.d_x);
    // The gradients of the weight, by their definition. Their terms are random, so that sums grow with the root of rows.
    let (rows, rstds) = (wide(&x), wide(rstd));
    let means = forward.mean.as_ref().map_or(vec![0.0; shape[0]], wide);
    let mut sums = vec![0.0; columns];
    for (row, d_y) in wide(&d_y).chunks(columns).enumerate() {
        for ((sum, s), d_y) in sums.iter_mut().zip(&rows[row * columns..]).zip(d_y) {
            *sum += d_y * (s - means[row]) * rstds[row];
        }
    }
    let d_weight = wide(gradients.d_weight.as_ref().expect("there is a weight"));
    let scaled = |sums: &[f64]| sums.iter().map(|sum| sum / (shape[0] as f64).sqrt()).collect::<Vec<_>>();
    check(name, dtype, &scaled(&d_weight), &scaled(&sums));
}

fn all<M: Measurement>(criterion: Criterion<M>, device: &Device) {
    let mut criterion = criterion.configure_from_args();
    attention(&mut criterion, device);
    attention_backward(&mut criterion, device);
    rows(&mut criterion, device);
    criterion.final_summary();
}

fn main() {
    let name = std::env::var("WARPFOLD_BENCH_DEVICE").unwrap_or_else(|_| "cpu".to_string());
    let device: Device = match name.parse() {
        Ok(device) => device,
        Err(error) => {
            eprintln!("error: cannot use {name}: {error}");
            std::process::exit(3);
        }
    };
    #[cfg(feature = "cuda")]
    if let Some(ordinal) = device.to_string().strip_prefix("cuda:") {
        let (device, clock) = cuda::open(ordinal.parse().expect("a device's name ends with its number"));
        return all(Criterion::default().with_measurement(clock), &device);
    }
    all(Criterion::default(), &device);
}

/// The clock of a GPU.
#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::Arc;

    use criterion::measurement::{Measurement, ValueFormatter, WallTime};
    use warpfold::Device;
    use warpfold::cuda::cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys::CUevent_flags};

    /// Nanoseconds between two events of a stream, of which none is waited for before the second.
    pub struct Events(Arc<CudaStream>);

    /// A GPU that has been opened before, on the stream of its clock.
    pub fn open(ordinal: usize) -> (Device, Events) {
        let context = CudaContext::new(ordinal).expect("the device is there");
        // SAFETY: everything of this process runs on one stream, so that no event has to order it.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().expect("a stream");
        (Device::cuda_on(stream.clone()).expect("a stream of a usable GPU"), Events(stream))
    }

    impl Events {
        fn record(&self) -> CudaEvent {
            // Other flags would have no times.
            self.0.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("an event")
        }
    }

    impl Measurement for Events {
        type Intermediate = CudaEvent;
        type Value = f64;

        fn start(&self) -> CudaEvent {
            self.record()
        }

        fn end(&self, start: CudaEvent) -> f64 {
            // This waits for both.
            f64::from(start.elapsed_ms(&self.record()).expect("the calls succeed")) * 1e6
        }

        fn add(&self, a: &f64, b: &f64) -> f64 {
            a + b
        }

        fn zero(&self) -> f64 {
            0.0
        }

        fn to_f64(&self, value: &f64) -> f64 {
            *value
        }

        fn formatter(&self) -> &dyn ValueFormatter {
            // It takes nanoseconds.
            static WALL_TIME: WallTime = WallTime;
            WALL_TIME.formatter()
        }
    }
}
