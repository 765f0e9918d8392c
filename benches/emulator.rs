//! Warp instructions a second of the real attention kernels on the emulator, on one thread, with all hazard checks.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use warpfold::emulator::{EmulatorBuilder, last_counters};
use warpfold::reference::{AttentionCase, attention_forward};
use warpfold::variants::Arch;
use warpfold::{Attention, Qkv, Tensor};

fn attention(criterion: &mut Criterion) {
    let device = match EmulatorBuilder::new(Arch::Sm80).threads(1).build() {
        Ok(device) => device,
        Err(error) => return println!("skipped: {error}"),
    };
    let mut group = criterion.benchmark_group("emulator_one_thread");
    group.sample_size(10);
    for (heads, len, head_dim) in [(4, 512, 64), (2, 256, 128)] {
        let mut random = fastrand::Rng::with_seed(1);
        let mut values = || (0..heads * len * head_dim).map(|_| f16::from_f32(random.f32() - 0.3)).collect::<Vec<_>>();
        let hosts = [values(), values(), values()];
        let shape = [1, heads, len, head_dim];
        let [q, k, v] = hosts.each_ref().map(|host| Tensor::from_slice(&device, host, shape).expect("a valid tensor"));
        let inputs = Qkv::new(&q, &k, &v);
        let run = || Attention::new().forward(&inputs).expect("a kernel without hazards");

        // The first query, as a problem of its own: benches time right results only.
        let output = run().output.to_vec_f32().expect("f16");
        let wide = |values: &[f16]| values.iter().map(|value| value.to_f64()).collect::<Vec<_>>();
        let head = len * head_dim;
        let case = AttentionCase::new(1, 1, 1, len, head_dim);
        let [q, k, v] = &hosts;
        let oracle = attention_forward(&case, &wide(&q[..head_dim]), &wide(&k[..head]), &wide(&v[..head]));
        for (value, oracle) in output.iter().zip(&oracle.output) {
            assert!((f64::from(*value) - oracle).abs() < 1e-3, "{value} for {oracle}");
        }

        let counters = last_counters(&device).expect("a kernel ran");
        group.throughput(Throughput::Elements(counters.warp_instructions));
        group.bench_function(format!("attention_f16_h{heads}_len{len}_d{head_dim}"), |bencher| bencher.iter(run));
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
