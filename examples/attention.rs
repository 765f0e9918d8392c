//! Causal attention on the best device there is, compared with the float64 reference: `cargo run --example attention`.

use half::f16;
use warpfold::reference::{AttentionCase, attention_forward};
use warpfold::{Attention, Device, Mask, Qkv, Tensor};

fn main() -> Result<(), warpfold::Error> {
    let device = Device::best();
    println!("running on {}", device.reason());

    // [batch, heads, len, head_dim]; k and v have 2 heads, each shared by 4 query heads.
    let values = |count: usize| (0..count).map(|i| f16::from_f32((i * i % 97) as f32 / 50.0 - 0.9)).collect::<Vec<_>>();
    let (q_host, k_host, v_host) = (values(8 * 256 * 64), values(2 * 256 * 64), values(2 * 256 * 64));
    let q = Tensor::from_slice(&device, &q_host, [1, 8, 256, 64])?;
    let k = Tensor::from_slice(&device, &k_host, [1, 2, 256, 64])?;
    let v = Tensor::from_slice(&device, &v_host, [1, 2, 256, 64])?;

    let attention = Attention::new().mask(Mask::causal());
    let inputs = Qkv::new(&q, &k, &v);
    println!("{}", attention.plan(&inputs.spec(), &device.target())?.explain());
    let forward = attention.forward(&inputs)?;

    let case = AttentionCase { heads_kv: 2, causal: true, ..AttentionCase::new(1, 8, 256, 256, 64) };
    let wide = |values: &[f16]| values.iter().map(|value| value.to_f64()).collect::<Vec<_>>();
    let oracle = attention_forward(&case, &wide(&q_host), &wide(&k_host), &wide(&v_host));
    let output = forward.output.to_vec_f32()?;
    let worst = output.iter().zip(&oracle.output).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    println!("output {:?}, lse {:?}", forward.output, forward.lse);
    println!("largest difference from float64: {worst:.1e}");
    Ok(())
}
