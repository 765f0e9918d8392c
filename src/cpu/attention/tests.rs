//! The CPU device against the oracle, through the public calls. The grid of shapes and options is in `tests/`.

use half::{bf16, f16};

use crate::cpu::simd::InstructionSet;
use crate::reference::{self, Alignment, AttentionCase, Broadcast, DropoutCase, compare, naive};
use crate::{
    Attention, AttentionForward, AttentionGradients, AttentionOutputs, AttentionState, BackwardInputs, BackwardSpec,
    DType, Device, Mask, Qkv, SeqLens, Tensor,
};

/// Everything that a forward and a backward call write.
#[derive(Clone, Debug, PartialEq)]
struct Results {
    output: Vec<f32>,
    lse: Vec<f32>,
    d_q: Vec<f32>,
    d_k: Vec<f32>,
    d_v: Vec<f32>,
    d_bias: Option<Vec<f32>>,
    d_sinks: Option<Vec<f32>>,
}

/// A problem with its numbers, in f32; padded, as the oracle takes them.
struct Numbers {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_output: Vec<f32>,
    d_lse: Option<Vec<f32>>,
}

fn random(seed: u64, count: usize, dtype: DType) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| rounded(random.f32() * 2.0 - 0.7, dtype)).collect()
}

fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

impl Numbers {
    fn new(case: &AttentionCase, dtype: DType, has_d_lse: bool) -> Numbers {
        Numbers {
            q: random(1, case.q_elements(), dtype),
            k: random(2, case.k_elements(), dtype),
            v: random(3, case.v_elements(), dtype),
            d_output: random(4, case.rows() * case.head_dim_v, dtype),
            d_lse: has_d_lse.then(|| random(5, case.rows(), DType::F32)),
        }
    }
}

fn tensor(dtype: DType, values: &[f32], shape: &[usize]) -> Tensor {
    let device = Device::cpu();
    match dtype {
        DType::F16 => Tensor::from_slice(&device, &values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>(), shape),
        DType::BF16 => {
            Tensor::from_slice(&device, &values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>(), shape)
        }
        _ => Tensor::from_slice(&device, values, shape),
    }
    .unwrap()
}

/// Every element of the tensor's memory becomes NaN.
fn poison(tensor: &mut Tensor) {
    let dtype = tensor.dtype();
    let mut view = tensor.view_mut();
    match dtype {
        DType::F16 => view.host_mut::<f16>().unwrap().fill(f16::NAN),
        DType::BF16 => view.host_mut::<bf16>().unwrap().fill(bf16::NAN),
        _ => view.host_mut::<f32>().unwrap().fill(f32::NAN),
    }
}

fn attention(case: &AttentionCase) -> Attention {
    let mut mask = if case.causal { Mask::causal() } else { Mask::none() };
    mask = mask.window(case.window.0, case.window.1).prefix(case.prefix);
    if let Alignment::Offset(offset) = case.alignment {
        mask = mask.offset(offset);
    }
    let mut attention = Attention::new().mask(mask);
    if let Some(scale) = case.scale {
        attention = attention.scale(scale as f32);
    }
    if let Some(cap) = case.softcap {
        attention = attention.softcap(cap as f32);
    }
    if let Some(dropout) = case.dropout {
        attention = attention.dropout(dropout.probability as f32);
    }
    attention
}

/// Rows `[batch, heads, len, columns]` as packed ones `[total, heads, columns]`.
fn pack(values: &[f32], lengths: &[usize], [heads, len, columns]: [usize; 3]) -> Vec<f32> {
    let mut packed = Vec::new();
    for (sequence, length) in lengths.iter().enumerate() {
        for (i, head) in (0..*length).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            packed.extend_from_slice(&values[((sequence * heads + head) * len + i) * columns..][..columns]);
        }
    }
    packed
}

/// The inverse of [`pack`]; what no sequence owns is `padding`.
fn unpack(packed: &[f32], lengths: &[usize], [heads, len, columns]: [usize; 3], padding: f32) -> Vec<f32> {
    let mut values = vec![padding; lengths.len() * heads * len * columns];
    let mut rows = packed.chunks(columns);
    for (sequence, length) in lengths.iter().enumerate() {
        for (i, head) in (0..*length).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let at = ((sequence * heads + head) * len + i) * columns;
            values[at..at + columns].copy_from_slice(rows.next().unwrap());
        }
    }
    assert!(rows.next().is_none());
    values
}

/// `[heads, total]` as `[total, heads]`, or back.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len().checked_div(rows).unwrap_or(0);
    (0..values.len()).map(|index| values[index % rows * columns + index / rows]).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// Runs both passes on the CPU device, into tensors that are NaN before, with scratch memory that is.
fn run(case: &AttentionCase, dtype: DType, numbers: &Numbers) -> Results {
    run_on(InstructionSet::best(), case, dtype, numbers)
}

fn run_on(set: InstructionSet, case: &AttentionCase, dtype: DType, numbers: &Numbers) -> Results {
    let device = Device::cpu_limited_to(set);
    let stream = device.stream();
    let AttentionCase { batch, heads_q, heads_kv, len_q, len_kv, head_dim, head_dim_v, .. } = *case;
    let lengths = |lengths: &[usize]| {
        SeqLens::new(&device, &lengths.iter().map(|length| *length as i32).collect::<Vec<_>>()).unwrap()
    };
    let query_lengths = case.query_lengths.clone();
    let key_lengths: Vec<usize> = (0..batch).map(|sequence| case.key_len(sequence)).collect();
    let is_packed = query_lengths.is_some();
    let query_lengths = query_lengths.unwrap_or(vec![len_q; batch]);
    let shaped = |values: &[f32], heads: usize, len: usize, columns: usize, lengths: &[usize]| -> Tensor {
        match is_packed {
            true => {
                let total = lengths.iter().sum();
                tensor(dtype, &pack(values, lengths, [heads, len, columns]), &[total, heads, columns])
            }
            false => tensor(dtype, values, &[batch, heads, len, columns]),
        }
    };
    let back = |tensor: &Tensor, heads: usize, len: usize, columns: usize, lengths: &[usize]| -> Vec<f32> {
        let values = tensor.to_vec_f32().unwrap();
        if is_packed { unpack(&values, lengths, [heads, len, columns], 0.0) } else { values }
    };
    let q = shaped(&numbers.q, heads_q, len_q, head_dim, &query_lengths);
    let k = shaped(&numbers.k, heads_kv, len_kv, head_dim, &key_lengths);
    let v = shaped(&numbers.v, heads_kv, len_kv, head_dim_v, &key_lengths);
    let d_output = shaped(&numbers.d_output, heads_q, len_q, head_dim_v, &query_lengths);
    let per_row = |values: &[f32]| match is_packed {
        true => {
            let packed = transposed(&pack(values, &query_lengths, [heads_q, len_q, 1]), query_lengths.iter().sum());
            tensor(DType::F32, &packed, &[heads_q, packed.len() / heads_q])
        }
        false => tensor(DType::F32, values, &[batch, heads_q, len_q]),
    };

    let (packed_queries, packed_keys) = (lengths(&query_lengths), lengths(&key_lengths));
    let mut inputs = match is_packed {
        true => Qkv::packed(&q, &k, &v, &packed_queries, &packed_keys),
        false => Qkv::new(&q, &k, &v),
    };
    if case.key_lengths.is_some() && !is_packed {
        inputs = inputs.key_lengths(&packed_keys);
    }
    inputs.key_range.clone_from(&case.key_range);
    let bias = case.bias.as_ref().map(|bias| tensor(dtype, &narrow(&bias.values), &bias.shape));
    inputs.bias = bias.as_ref().map(Into::into);
    let mask = case.mask.as_ref().map(|mask| {
        let bytes: Vec<u8> = mask.values.iter().map(|visible| u8::from(*visible)).collect();
        Tensor::from_slice(&device, &bytes, mask.shape).unwrap()
    });
    inputs.mask = mask.as_ref().map(Into::into);
    let slopes = case.slopes.as_ref().map(|slopes| {
        let shape: &[usize] = if slopes.len() == heads_q { &[heads_q] } else { &[batch, heads_q] };
        tensor(DType::F32, &narrow(slopes), shape)
    });
    inputs.alibi_slopes = slopes.as_ref().map(Into::into);
    let sinks = case.sinks.as_ref().map(|sinks| tensor(DType::F32, &narrow(sinks), &[heads_q]));
    inputs.sinks = sinks.as_ref().map(Into::into);
    if let Some(dropout) = case.dropout {
        inputs = inputs.dropout_state(dropout.seed, dropout.offset);
    }

    let attention = attention(case);
    let plan = attention.plan(&inputs.spec(), &device.target()).unwrap();
    let mut forward = AttentionForward::allocate(&plan, &device).unwrap();
    [&mut forward.output, &mut forward.lse].into_iter().for_each(poison);
    let mut workspace = plan.workspace(&stream).unwrap();
    workspace.slots.iter_mut().for_each(|slot| slot.fill(f32::NAN));
    let outputs = AttentionOutputs::new(&mut forward.output).lse(&mut forward.lse);
    plan.forward_into(&stream, &inputs, outputs, &mut workspace).unwrap();

    let plan = attention
        .plan_backward(&BackwardSpec::new(inputs.spec()).d_output(d_output.view().spec()), &device.target())
        .unwrap();
    let mut workspace = plan.workspace(&stream).unwrap();
    workspace.slots.iter_mut().for_each(|slot| slot.fill(f32::NAN));
    let d_lse = numbers.d_lse.as_ref().map(|d_lse| per_row(d_lse));
    let mut saved = BackwardInputs::new(&forward.output, &forward.lse, &d_output);
    if let Some(d_lse) = &d_lse {
        saved = saved.d_lse(d_lse);
    }
    let mut gradients = AttentionGradients::allocate(&plan, &device).unwrap();
    let AttentionGradients { d_q, d_k, d_v, d_bias, d_sinks } = &mut gradients;
    [Some(d_q), Some(d_k), Some(d_v), d_bias.as_mut(), d_sinks.as_mut()].into_iter().flatten().for_each(poison);
    plan.backward_into(&stream, &inputs, &saved, gradients.outputs(), &mut workspace).unwrap();

    let lse = forward.lse.to_vec_f32().unwrap();
    let AttentionGradients { d_q, d_k, d_v, d_bias, d_sinks } = gradients;
    Results {
        output: back(&forward.output, heads_q, len_q, head_dim_v, &query_lengths),
        lse: match is_packed {
            true => unpack(&transposed(&lse, heads_q), &query_lengths, [heads_q, len_q, 1], f32::NEG_INFINITY),
            false => lse,
        },
        d_q: back(&d_q, heads_q, len_q, head_dim, &query_lengths),
        d_k: back(&d_k, heads_kv, len_kv, head_dim, &key_lengths),
        d_v: back(&d_v, heads_kv, len_kv, head_dim_v, &key_lengths),
        d_bias: d_bias.map(|d_bias| d_bias.to_vec_f32().unwrap()),
        d_sinks: d_sinks.map(|d_sinks| d_sinks.to_vec_f32().unwrap()),
    }
}

#[track_caller]
fn assert_close(what: &str, case: &AttentionCase, actual: &[f32], exact: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), exact.len());
    let largest = exact.iter().filter(|value| value.is_finite()).fold(0.0f64, |max, value| max.max(value.abs()));
    for (index, (actual, exact)) in actual.iter().zip(exact).enumerate() {
        let error = (f64::from(*actual) - exact).abs();
        let is_close =
            if exact.is_finite() { error <= tolerance * largest.max(1.0) } else { f64::from(*actual) == *exact };
        assert!(is_close, "{what}[{index}] is {actual} instead of {exact}, at most {largest}: {case:?}");
    }
}

/// Holds every instruction set to the oracle.
#[track_caller]
fn check(case: &AttentionCase, dtype: DType, has_d_lse: bool) {
    let numbers = Numbers::new(case, dtype, has_d_lse);
    let wide = reference::from_f32;
    let [q, k, v, d_output] = [&numbers.q, &numbers.k, &numbers.v, &numbers.d_output].map(|values| wide(values));
    let d_lse = numbers.d_lse.as_ref().map(|d_lse| wide(d_lse));
    let forward = reference::attention_forward(case, &q, &k, &v);
    let gradients = reference::attention_backward(case, &q, &k, &v, &d_output, d_lse.as_deref());
    let tolerance = match dtype {
        DType::BF16 => 3e-2,
        DType::F16 => 4e-3,
        _ => 1e-5,
    };
    for set in InstructionSet::all() {
        let results = run_on(set, case, dtype, &numbers);
        let close = |what: &str, actual: &[f32], exact: &[f64], tolerance: f64| {
            assert_close(&format!("{set:?}: {what}"), case, actual, exact, tolerance);
        };
        close("output", &results.output, &forward.output, tolerance);
        close("lse", &results.lse, &forward.lse, 1e-6);
        close("d_q", &results.d_q, &gradients.d_q, tolerance);
        close("d_k", &results.d_k, &gradients.d_k, tolerance);
        close("d_v", &results.d_v, &gradients.d_v, tolerance);
        if let (Some(actual), Some(exact)) = (&results.d_bias, &gradients.d_bias) {
            close("d_bias", actual, exact, 5.0 * tolerance);
        }
        if let (Some(actual), Some(exact)) = (&results.d_sinks, &gradients.d_sinks) {
            close("d_sinks", actual, exact, 5.0 * tolerance);
        }
    }
}

/// Six query heads on two key heads, ragged lengths and head dimensions.
fn base() -> AttentionCase {
    AttentionCase { heads_kv: 2, head_dim_v: 17, ..AttentionCase::new(2, 6, 70, 130, 24) }
}

/// Elements of q's type that every type holds.
fn bias(shape: [usize; 4]) -> Broadcast<f64> {
    let values = random(7, shape.iter().product(), DType::BF16);
    Broadcast { shape, values: values.iter().map(|value| f64::from(*value)).collect() }
}

fn holes(shape: [usize; 4]) -> Broadcast<bool> {
    Broadcast {
        shape,
        values: random(8, shape.iter().product(), DType::F32).iter().map(|value| *value > -0.3).collect(),
    }
}

fn dropout() -> Option<DropoutCase> {
    Some(DropoutCase { probability: f64::from(0.3f32), seed: 1 << 40 | 77, offset: 5 })
}

fn everything() -> AttentionCase {
    AttentionCase {
        scale: Some(0.25),
        causal: true,
        window: (Some(90), None),
        prefix: 5,
        key_range: Some(3..110),
        mask: Some(holes([1, 6, 70, 130])),
        bias: Some(bias([2, 1, 70, 130])),
        softcap: Some(1.5),
        slopes: Some((0..12).map(|index| f64::from(index as f32 * 0.01)).collect()),
        sinks: Some(vec![0.5, -0.5, 0.0, 1.0, 3.0, -4.0]),
        dropout: dropout(),
        ..base()
    }
}

#[test]
fn every_option_alone_agrees_with_the_oracle() {
    let cases = [
        base(),
        AttentionCase { causal: true, ..base() },
        AttentionCase { causal: true, alignment: Alignment::Offset(-9), sinks: Some(vec![0.5; 6]), ..base() },
        AttentionCase { window: (Some(40), Some(3)), ..base() },
        // The window leaves out whole tiles after the prefix.
        AttentionCase { causal: true, window: (Some(2), None), prefix: 3, ..base() },
        AttentionCase { key_lengths: Some(vec![65, 0]), ..base() },
        AttentionCase { key_range: Some(63..129), ..base() },
        AttentionCase { softcap: Some(0.7), ..base() },
        AttentionCase { slopes: Some(vec![0.5, 0.25, 0.125, 0.0625, 0.0, 1.0]), ..base() },
        AttentionCase { sinks: Some(vec![0.5, -0.5, 0.0, 1.0, 20.0, -20.0]), ..base() },
        AttentionCase { dropout: dropout(), ..base() },
        AttentionCase { bias: Some(bias([1, 1, 1, 130])), ..base() },
        AttentionCase { bias: Some(bias([2, 1, 70, 130])), ..base() },
        AttentionCase { bias: Some(bias([1, 6, 1, 130])), ..base() },
        AttentionCase { mask: Some(holes([2, 1, 1, 130])), ..base() },
        AttentionCase { mask: Some(holes([1, 6, 70, 1])), ..base() },
    ];
    for case in cases {
        check(&case, DType::F32, false);
    }
}

#[test]
fn all_options_together_agree_with_the_oracle() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        check(&AttentionCase { key_lengths: Some(vec![101, 64]), ..everything() }, dtype, true);
    }
}

#[test]
fn packed_sequences_agree_with_the_oracle() {
    // Neither the rows nor the keys of the later sequences start at multiples of anything.
    let packed = |case: AttentionCase| AttentionCase {
        query_lengths: Some(vec![41, 70]),
        key_lengths: Some(vec![130, 67]),
        ..case
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        check(&packed(everything()), dtype, true);
    }
    check(&packed(AttentionCase { causal: true, dropout: dropout(), ..base() }), DType::F32, false);
    let short = AttentionCase {
        query_lengths: Some(vec![1, 0, 3, 2, 1]),
        key_lengths: Some(vec![2, 1, 0, 70, 5]),
        ..AttentionCase::new(5, 2, 3, 70, 8)
    };
    check(&AttentionCase { sinks: Some(vec![0.5, 1.0]), ..short.clone() }, DType::F32, true);
    check(&short, DType::F32, false);
}

#[test]
fn ragged_sizes_agree_with_the_oracle() {
    for (len_q, len_kv, head_dim) in
        [(1, 1, 1), (3, 63, 3), (63, 3, 16), (64, 64, 8), (65, 65, 40), (1, 130, 7), (5, 0, 4)]
    {
        check(&AttentionCase::new(1, 2, len_q, len_kv, head_dim), DType::F32, true);
        let sinks = Some(vec![0.25, -1.0]);
        check(
            &AttentionCase { causal: true, sinks, ..AttentionCase::new(2, 2, len_q, len_kv, head_dim) },
            DType::F32,
            false,
        );
    }
    // Keys without an element leave a bias and its gradient without one too.
    check(&AttentionCase { bias: Some(bias([1, 2, 5, 0])), ..AttentionCase::new(1, 2, 5, 0, 4) }, DType::F32, false);
}

/// Holds the gradients of every instruction set to three times the unfused computation's distance from the oracle, and those of
/// a task a key head to the bits of tasks that own tiles of keys or blocks of queries.
#[track_caller]
fn check_gradients(case: &AttentionCase, dtype: DType) {
    let numbers = Numbers::new(case, dtype, true);
    let wide = reference::from_f32;
    let [q, k, v, d_output] = [&numbers.q, &numbers.k, &numbers.v, &numbers.d_output].map(|values| wide(values));
    let d_lse = numbers.d_lse.as_ref().map(|d_lse| wide(d_lse));
    let exact = reference::attention_backward(case, &q, &k, &v, &d_output, d_lse.as_deref());
    let unfused = naive::attention_backward(case, dtype, &q, &k, &v, &d_output, d_lse.as_deref());
    for set in InstructionSet::all() {
        let heads = case.batch * case.heads_kv;
        let [results, apart] = [heads, heads + 1].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run_on(set, case, dtype, &numbers))
        });
        assert_eq!(results, apart, "{set:?}: {case:?}");
        let close = |what: &str, actual: &[f32], exact: &[f64], unfused: &[f64]| {
            compare::check(what, &[exact.len()], dtype, &wide(actual), exact, unfused, 3.0)
                .unwrap_or_else(|mismatch| panic!("{set:?}: {mismatch}: {case:?}"));
        };
        close("d_q", &results.d_q, &exact.d_q, &unfused.d_q);
        close("d_k", &results.d_k, &exact.d_k, &unfused.d_k);
        close("d_v", &results.d_v, &exact.d_v, &unfused.d_v);
        if let (Some(actual), Some(exact), Some(unfused)) = (&results.d_bias, &exact.d_bias, &unfused.d_bias) {
            close("d_bias", actual, exact, unfused);
        }
    }
}

#[test]
fn gradients_of_bf16_are_as_close_as_the_unfused_computation() {
    // Odd numbers of everything that pairs are made of: queries, keys and elements of heads, in several blocks and tiles, whose
    // parts that are seen start and end at odd places.
    let long = |head_dim| AttentionCase { heads_kv: 2, ..AttentionCase::new(1, 4, 203, 301, head_dim) };
    let causal =
        |head_dim, offset| AttentionCase { causal: true, alignment: Alignment::Offset(offset), ..long(head_dim) };
    for case in [
        long(1),
        long(64),
        AttentionCase { head_dim_v: 17, ..long(40) },
        AttentionCase { head_dim_v: 40, ..causal(7, 0) },
        causal(64, 98),
        causal(128, -33),
        AttentionCase { window: (Some(75), Some(6)), prefix: 5, ..long(40) },
        AttentionCase { key_range: Some(3..130), ..causal(64, 98) },
        AttentionCase { key_lengths: Some(vec![129]), softcap: Some(1.5), ..long(64) },
        AttentionCase { dropout: dropout(), ..causal(64, 98) },
        AttentionCase { bias: Some(bias([1, 1, 203, 301])), sinks: Some(vec![0.5, -0.5, 3.0, 0.0]), ..long(64) },
        AttentionCase { mask: Some(holes([1, 4, 203, 301])), ..long(64) },
        AttentionCase::new(2, 1, 1, 1, 1),
        AttentionCase::new(2, 1, 3, 1, 8),
        AttentionCase::new(2, 1, 1, 129, 40),
        AttentionCase::new(1, 2, 97, 127, 64),
        // Every lane after the last query is one that nothing else wrote, and the last panel sees less than the block.
        AttentionCase { window: (Some(5), Some(0)), ..AttentionCase::new(1, 2, 47, 127, 64) },
        AttentionCase { key_lengths: Some(vec![101, 64]), ..everything() },
        AttentionCase { query_lengths: Some(vec![41, 70]), key_lengths: Some(vec![130, 67]), ..everything() },
    ] {
        check_gradients(&case, DType::BF16);
    }
}

#[test]
fn what_is_out_of_range_reaches_no_result_even_as_nan() {
    // Of sequence 0 the keys 3..101 count, of sequence 1 the keys 3..64.
    let case = AttentionCase { key_lengths: Some(vec![101, 64]), ..everything() };
    let mut numbers = Numbers::new(&case, DType::F32, true);
    let mut poisoned = case.clone();
    for sequence in 0..2 {
        for key in (0..130).filter(|key| !(3..case.key_len(sequence)).contains(key)) {
            for head in 0..2 {
                let row = (sequence * 2 + head) * 130 + key;
                numbers.k[row * 24..][..24].fill(f32::NAN);
                numbers.v[row * 17..][..17].fill(f32::NAN);
            }
            let bias = poisoned.bias.as_mut().unwrap();
            (0..70).for_each(|query| bias.values[(sequence * 70 + query) * 130 + key] = f64::NAN);
        }
    }
    // Nor does a bias where the boolean mask hides the key from every head.
    let mask = poisoned.mask.as_mut().unwrap();
    (0..6).for_each(|head| mask.values[(head * 70 + 69) * 130 + 50] = false);
    let hidden = AttentionCase { mask: poisoned.mask.clone(), ..case };
    let expected = run(&hidden, DType::F32, &Numbers::new(&hidden, DType::F32, true));
    poisoned.bias.as_mut().unwrap().values[69 * 130 + 50] = f64::NAN;
    assert_eq!(run(&poisoned, DType::F32, &numbers), expected);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let case = AttentionCase { bias: Some(bias([1, 1, 1, 130])), ..everything() };
    let packed = AttentionCase { query_lengths: Some(vec![41, 70]), key_lengths: Some(vec![130, 67]), ..everything() };
    for case in [case, packed] {
        for (dtype, set) in
            [DType::F32, DType::BF16].into_iter().flat_map(|dtype| InstructionSet::all().map(move |set| (dtype, set)))
        {
            let numbers = Numbers::new(&case, dtype, true);
            let [one, three, five] = [1, 3, 5].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run_on(set, &case, dtype, &numbers))
            });
            assert_eq!(one, three, "{set:?}");
            // There are four key heads: too few for five threads, which compute d_q apart.
            assert_eq!(one, five, "{set:?}");
        }
    }
}

/// Compares a problem's first `len_q` queries of head 4 (on key head 1) of sequence 1, with the keys that they see, to the same
/// rows of the whole problem.
fn check_bits_of_rows(set: InstructionSet, whole: &AttentionCase, dtype: DType, len_q: usize) {
    let AttentionCase { head_dim, head_dim_v, len_q: rows, len_kv, .. } = *whole;
    let numbers = Numbers::new(whole, dtype, true);
    let results = run_on(set, whole, dtype, &numbers);
    let Alignment::Offset(offset) = whole.alignment else { panic!("the part keeps its positions") };
    let keys = len_q + offset as usize;
    let part = AttentionCase { batch: 1, heads_q: 1, heads_kv: 1, len_q, len_kv: keys, ..whole.clone() };
    let cut = |values: &[f32], head: usize, len: usize, kept: usize, columns: usize| {
        values[head * len * columns..][..kept * columns].to_vec()
    };
    let numbers = Numbers {
        q: cut(&numbers.q, 10, rows, len_q, head_dim),
        k: cut(&numbers.k, 3, len_kv, keys, head_dim),
        v: cut(&numbers.v, 3, len_kv, keys, head_dim_v),
        d_output: cut(&numbers.d_output, 10, rows, len_q, head_dim_v),
        d_lse: numbers.d_lse.as_ref().map(|d_lse| cut(d_lse, 10, rows, len_q, 1)),
    };
    let part = run_on(set, &part, dtype, &numbers);
    let what = format!("{set:?}, {dtype}, {len_q} queries, head_dim_v {head_dim_v}");
    assert_eq!(part.output, cut(&results.output, 10, rows, len_q, head_dim_v), "{what}");
    assert_eq!(part.lse, cut(&results.lse, 10, rows, len_q, 1), "{what}");
    assert_eq!(part.d_q, cut(&results.d_q, 10, rows, len_q, head_dim), "{what}");
}

#[test]
fn the_bits_of_a_row_depend_on_its_own_inputs_only() {
    // Few queries read keys and values where they lie: whole vectors of them, and values without padding, so there is one width
    // that allows it and one that does not.
    for (set, dtype) in
        InstructionSet::all().flat_map(|set| [DType::F32, DType::F16, DType::BF16].map(|dtype| (set, dtype)))
    {
        for (head_dim_v, len_q) in [(17, 33), (17, 2), (32, 1), (32, 3), (32, 4), (32, 5)] {
            // A problem of few queries does without tiles, and sums in another order than one of many.
            if set.multiplies_tiles() && dtype == DType::BF16 && len_q <= 4 {
                continue;
            }
            let alignment = Alignment::Offset(20);
            let whole = AttentionCase { causal: true, alignment, head_dim: 32, head_dim_v, ..base() };
            check_bits_of_rows(set, &whole, dtype, len_q);
            check_bits_of_rows(set, &AttentionCase { softcap: Some(2.0), ..whole }, dtype, len_q);
        }
    }
}

#[test]
fn ranges_of_keys_give_the_same_bits_whoever_computes_them() {
    // Two blocks: enough for one thread, so that it walks the ranges, and too few for three, which take ranges each.
    let few = AttentionCase { heads_kv: 2, ..AttentionCase::new(1, 4, 3, 4200, 16) };
    for (dtype, case) in [
        (DType::F32, AttentionCase { causal: true, sinks: Some(vec![0.5, -0.5, 0.0, 1.0]), ..few.clone() }),
        (DType::BF16, AttentionCase { window: (Some(900), Some(0)), dropout: dropout(), ..few.clone() }),
        (DType::F16, AttentionCase { key_lengths: Some(vec![2100]), ..few }),
    ] {
        check(&case, dtype, false);
        let numbers = Numbers::new(&case, dtype, true);
        for set in InstructionSet::all() {
            let [one, three] = [1, 3].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run_on(set, &case, dtype, &numbers))
            });
            assert_eq!(one, three, "{set:?}");
        }
    }
}

#[test]
fn partial_results_merge_into_the_whole() {
    let device = Device::cpu();
    let case = base();
    let numbers = Numbers::new(&case, DType::BF16, false);
    let q = tensor(DType::BF16, &numbers.q, &[2, 6, 70, 24]);
    let k = tensor(DType::BF16, &numbers.k, &[2, 2, 130, 24]);
    let v = tensor(DType::BF16, &numbers.v, &[2, 2, 130, 17]);
    let sinks = tensor(DType::F32, &[0.5, -0.5, 0.0, 1.0, 3.0, -4.0], &[6]);
    let attention = Attention::new().mask(Mask::causal().offset(-3)).dropout(0.3);
    let inputs = Qkv::new(&q, &k, &v).dropout_state(9, 1).sinks(&sinks);
    let parts = [0..31, 31..31, 31..130].map(|keys| attention.partial(&inputs.clone().key_range(keys)).unwrap());
    let merged = AttentionState::merge(&[&parts[0], &parts[1], &parts[2]]).unwrap();
    let merged = merged.finish(DType::BF16, Some((&sinks).into())).unwrap();
    let whole = attention.forward(&inputs).unwrap();
    let values = |tensor: &Tensor| tensor.to_vec_f32().unwrap();
    for (a, b) in values(&merged.output).iter().zip(values(&whole.output)) {
        assert!((a - b).abs() <= 0.01 * b.abs().max(0.1), "{a} is not {b}");
    }
    for (a, b) in values(&merged.lse).iter().zip(values(&whole.lse)) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }
    // The first queries see no key; without a sink they have nothing.
    let nothing = parts[0].finish(DType::F32, None).unwrap();
    assert_eq!(values(&nothing.lse)[..3], [f32::NEG_INFINITY; 3]);
    assert_eq!(values(&nothing.output)[..3 * 17], [0.0; 3 * 17]);

    // A part without keys takes no part, whatever its output holds.
    let empty = || AttentionForward {
        output: tensor(DType::F32, &[f32::NAN; 6], &[1, 1, 2, 3]),
        lse: tensor(DType::F32, &[f32::NEG_INFINITY; 2], &[1, 1, 2]),
    };
    let full = AttentionForward {
        output: tensor(DType::F32, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1, 1, 2, 3]),
        lse: tensor(DType::F32, &[700.0, -800.0], &[1, 1, 2]),
    };
    let states = [empty(), full, empty()].map(|state| AttentionState::from_natural_log(state).unwrap());
    let merged = AttentionState::merge(&[&states[0], &states[1], &states[2]]).unwrap();
    assert_eq!(merged.output().to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(merged.natural_log().to_vec::<f32>().unwrap(), [700.0, -800.0]);
    let sink = tensor(DType::F32, &[0.5], &[1]);
    let sink_only = states[0].finish(DType::F32, Some((&sink).into())).unwrap();
    assert_eq!((values(&sink_only.output), values(&sink_only.lse)), (vec![0.0; 6], vec![0.5; 2]));
    assert_eq!(device, *merged.output().device());
}
