//! The three operations on the CPU device. Each bench first holds what it times to the oracle, on a sample of rows.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use warpfold::reference::{self, Alignment, AttentionCase};
use warpfold::{
    Attention, AttentionOutputs, DType, Device, LayerNorm, LayerNormInputs, LayerNormOutputs, Mask, Qkv, Softmax,
    Tensor,
};

fn upload(dtype: DType, seed: u64, shape: &[usize]) -> Tensor {
    let mut random = fastrand::Rng::with_seed(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.f32() * 2.0 - 0.7).collect();
    let device = Device::cpu();
    match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            Tensor::from_slice(&device, &values, shape)
        }
        _ => Tensor::from_slice(&device, &values, shape),
    }
    .expect("a tensor of the CPU")
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

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention_forward");
    let stream = Device::cpu().stream();
    for dtype in [DType::F32, DType::BF16] {
        for (heads, len, head_dim, causal) in
            [(8, 512, 64, false), (8, 2048, 64, false), (8, 2048, 64, true), (8, 2048, 128, true)]
        {
            let [q, k, v] = [1, 2, 3].map(|seed| upload(dtype, seed, &[1, heads, len, head_dim]));
            let mask = if causal { Mask::causal() } else { Mask::none() };
            let inputs = Qkv::new(&q, &k, &v);
            let plan =
                Attention::new().mask(mask).plan(&inputs.spec(), &Device::cpu().target()).expect("a valid problem");
            let mut workspace = plan.workspace(&stream).expect("a workspace");
            let mut output = upload(dtype, 0, &[1, heads, len, head_dim]);
            let mut run = || {
                plan.forward_into(&stream, &inputs, AttentionOutputs::new(&mut output), &mut workspace)
                    .expect("a call");
            };
            let name = format!("{dtype}_h{heads}_len{len}_d{head_dim}{}", if causal { "_causal" } else { "" });
            group.throughput(Throughput::Elements(plan.flops()));
            group.bench_function(BenchmarkId::from_parameter(&name), |bencher| bencher.iter(&mut run));

            // The last query of the first head, as a problem of its own.
            let head = len * head_dim;
            let case = AttentionCase {
                causal: causal.then_some(Alignment::BottomRight),
                ..AttentionCase::new(1, 1, 1, len, head_dim)
            };
            let oracle = reference::attention_forward(
                &case,
                &wide(&q)[head - head_dim..head],
                &wide(&k)[..head],
                &wide(&v)[..head],
            );
            check(&name, dtype, &wide(&output)[head - head_dim..head], &oracle.output);
        }
    }
    group.finish();
}

fn rows(criterion: &mut Criterion) {
    let stream = Device::cpu().stream();
    for dtype in [DType::F32, DType::BF16] {
        for (rows, columns) in [(1024, 1024), (4096, 4096)] {
            let x = upload(dtype, 1, &[rows, columns]);
            let mut y = upload(dtype, 0, &[rows, columns]);
            let bytes = 2 * rows * columns * dtype.size_bytes();
            let sample = wide(&x)[..columns].to_vec();
            let name = format!("{dtype}_{rows}x{columns}");

            let mut group = criterion.benchmark_group("softmax_forward");
            group.throughput(Throughput::Bytes(bytes as u64));
            let plan = Softmax::new().plan(&x.view().spec(), None, &Device::cpu().target()).expect("a valid problem");
            let mut workspace = plan.workspace(&stream).expect("a workspace");
            group.bench_function(BenchmarkId::from_parameter(&name), |bencher| {
                bencher.iter(|| plan.forward_into(&stream, black_box(&x), &mut y, &mut workspace).expect("a call"));
            });
            check(&name, dtype, &wide(&y)[..columns], &reference::softmax_forward(&sample, columns));
            group.finish();

            let mut group = criterion.benchmark_group("layer_norm_forward");
            group.throughput(Throughput::Bytes(bytes as u64));
            let (weight, bias) = (upload(dtype, 2, &[columns]), upload(dtype, 3, &[columns]));
            let inputs = LayerNormInputs::new(&x).weight(&weight).bias(&bias);
            let plan = LayerNorm::new().plan(&inputs.spec(), &Device::cpu().target()).expect("a valid problem");
            let mut workspace = plan.workspace(&stream).expect("a workspace");
            group.bench_function(BenchmarkId::from_parameter(&name), |bencher| {
                bencher.iter(|| {
                    plan.forward_into(&stream, &inputs, LayerNormOutputs::new(&mut y), &mut workspace).expect("a call");
                });
            });
            let oracle =
                reference::layer_norm_forward(&sample, columns, Some(&wide(&weight)), Some(&wide(&bias)), 1e-5);
            check(&name, dtype, &wide(&y)[..columns], &oracle.y);
            group.finish();
        }
    }
}

criterion_group!(benches, attention, rows);
criterion_main!(benches);
