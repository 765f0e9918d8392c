//! Bad input: each rule of the contract has its own error, with the values in it, before anything runs.

mod common;

use half::f16;
use warpfold::{
    Attention, AttentionForward, AttentionOutputs, DType, Device, Error, GpuTarget, LayerNorm, LayerNormInputs, Layout,
    Mask, Qkv, QkvSpec, SeqLens, Softmax, Target, Tensor, TensorMut, TensorRef, TensorSpec,
};

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::zeros(&Device::cpu(), DType::F32, shape).expect("a small tensor")
}

fn spec(dtype: DType, shape: &[usize]) -> TensorSpec {
    TensorSpec::contiguous(dtype, shape).expect("a valid shape")
}

/// The error of a forward call on tensors of these shapes.
fn error_of(q: &[usize], k: &[usize], v: &[usize]) -> Error {
    let (q, k, v) = (tensor(q), tensor(k), tensor(v));
    Attention::new().forward(&Qkv::new(&q, &k, &v)).expect_err("a bad shape")
}

#[test]
fn ranks_and_shapes_must_match() {
    let good = [2, 4, 8, 16];
    let error = error_of(&[4, 8, 16], &good, &good);
    assert!(matches!(error, Error::Rank { tensor: "q", .. }), "{error}");
    assert_eq!(error.to_string(), "q has shape [4, 8, 16] of rank 3; [batch, heads, len, head_dim] is needed");
    for (k, v, culprit) in [
        ([1, 4, 8, 16], [1, 4, 8, 16], "k"),
        ([2, 4, 8, 32], good, "k"),
        (good, [2, 4, 9, 16], "v"),
        (good, [2, 2, 8, 16], "v"),
    ] {
        let error = error_of(&good, &k, &v);
        assert!(matches!(&error, Error::Shape { tensor, .. } if *tensor == culprit), "{error}");
    }
}

#[test]
fn heads_must_divide() {
    let error = error_of(&[1, 6, 8, 16], &[1, 4, 8, 16], &[1, 4, 8, 16]);
    assert_eq!(error, Error::HeadsNotDivisible { heads_q: 6, heads_kv: 4 });
}

#[test]
fn types_must_match() {
    let (q, k) = (tensor(&[1, 1, 2, 8]), Tensor::from_slice(&Device::cpu(), &[f16::ONE; 16], [1, 1, 2, 8]).unwrap());
    let error = Attention::new().forward(&Qkv::new(&q, &k, &q)).unwrap_err();
    assert_eq!(error, Error::DTypeMismatch { tensor: "k", dtype: DType::F16, expected: DType::F32 });
    let integers = Tensor::from_slice(&Device::cpu(), &[1i32; 16], [1, 1, 2, 8]).unwrap();
    let error = Attention::new().forward(&Qkv::new(&integers, &integers, &integers)).unwrap_err();
    assert!(matches!(error, Error::UnsupportedDType { dtype: DType::I32, .. }), "{error}");
    assert!(matches!(Softmax::new().forward(&integers), Err(Error::UnsupportedDType { .. })));
    assert!(matches!(LayerNorm::new().forward(&LayerNormInputs::new(&integers)), Err(Error::UnsupportedDType { .. })));
}

#[test]
fn empty_tensors_are_refused_but_for_len_kv() {
    for (q, kv, culprit) in [
        ([0, 1, 2, 8], [0, 1, 2, 8], "q"),
        ([1, 0, 2, 8], [1, 1, 2, 8], "q"),
        ([1, 1, 0, 8], [1, 1, 2, 8], "q"),
        ([1, 1, 2, 0], [1, 1, 2, 0], "q"),
        ([1, 1, 2, 8], [1, 0, 2, 8], "k"),
    ] {
        let error = error_of(&q, &kv, &kv);
        assert!(matches!(&error, Error::Empty { tensor, .. } if *tensor == culprit), "{error}");
    }
    let (q, kv) = (tensor(&[1, 1, 2, 8]), tensor(&[1, 1, 0, 8]));
    let forward = Attention::new().forward(&Qkv::new(&q, &kv, &kv)).expect("no keys is a valid problem");
    assert_eq!(forward.output.to_vec::<f32>().unwrap(), [0.0; 16]);
    assert_eq!(forward.lse.to_vec::<f32>().unwrap(), [f32::NEG_INFINITY; 2]);
    assert!(matches!(Softmax::new().forward(&tensor(&[3, 0])), Err(Error::Empty { tensor: "x", .. })));
    assert!(matches!(SeqLens::new(&Device::cpu(), &[]), Err(Error::Empty { .. })));
}

#[test]
fn the_last_stride_must_be_one() {
    let memory = tensor(&[64]);
    let strided = Layout::strided(&[1, 1, 2, 8], &[32, 32, 16, 2], 0).unwrap();
    let view = memory.view().with_layout(strided).unwrap();
    let error = Attention::new().forward(&Qkv::new(view, view, view)).unwrap_err();
    assert!(matches!(error, Error::LastStride { tensor: "q", stride: 2, .. }), "{error}");
    assert!(matches!(Softmax::new().forward(view), Err(Error::LastStride { tensor: "x", stride: 2, .. })));
}

#[test]
fn outputs_must_not_overlap() {
    let q = tensor(&[1, 1, 4, 8]);
    let output = TensorSpec { layout: Layout::strided(&[1, 1, 4, 8], &[32, 32, 4, 1], 0).unwrap(), ..q.view().spec() };
    let spec = Qkv::new(&q, &q, &q).spec().output(output);
    let error = Attention::new().plan(&spec, &Target::Cpu).unwrap_err();
    assert!(matches!(error, Error::Overlap { tensor: "the output", .. }), "{error}");
    let error = Softmax::new().plan(&q.view().spec(), Some(&output), &Target::Cpu).unwrap_err();
    assert!(matches!(error, Error::Overlap { .. }), "{error}");
}

#[test]
fn lengths_over_32_bits_are_refused() {
    let long = 1usize << 31;
    let (small, large) = (spec(DType::F16, &[1, 1, 2, 64]), spec(DType::F16, &[1, 1, long, 64]));
    for (target, q, kv, what) in [
        (Target::Cpu, &large, &small, "len_q"),
        (Target::Cpu, &small, &large, "len_kv"),
        (Target::Gpu(GpuTarget::A100), &small, &large, "len_kv"),
    ] {
        let error = Attention::new().plan(&QkvSpec::new(*q, *kv, *kv), &target).unwrap_err();
        assert!(
            matches!(&error, Error::TooLarge { what: named, value, .. } if *named == what && *value == long),
            "{error}"
        );
    }
    let rows = spec(DType::F16, &[long, 4]);
    assert!(matches!(Softmax::new().plan(&rows, None, &Target::Cpu), Err(Error::TooLarge { .. })));
    // A grid has at most 2^31 - 1 blocks.
    let many = spec(DType::F16, &[1 << 20, 1 << 12, 1, 64]);
    let error = Attention::new().plan(&QkvSpec::new(many, many, many), &Target::Gpu(GpuTarget::H100)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "the number of thread blocks", .. }), "{error}");
}

#[test]
fn key_lengths_must_fit() {
    let (q, k) = (tensor(&[2, 1, 3, 8]), tensor(&[2, 1, 5, 8]));
    let forward = |lengths: &[i32]| -> Result<AttentionForward, Error> {
        let lengths = SeqLens::new(&Device::cpu(), lengths)?;
        Attention::new().forward(&Qkv::new(&q, &k, &k).key_lengths(&lengths))
    };
    assert_eq!(forward(&[5, 6]).unwrap_err(), Error::KeyLength { length: 6, len_kv: 5 });
    assert_eq!(forward(&[5, -1]).unwrap_err(), Error::NegativeLength { index: 1, length: -1 });
    assert!(matches!(forward(&[5]).unwrap_err(), Error::Shape { tensor: "key_lengths", .. }));
    assert!(forward(&[5, 0]).is_ok());
    let floats = tensor(&[2]);
    assert!(matches!(SeqLens::from_device(floats), Err(Error::DTypeMismatch { .. })));
}

#[test]
fn a_head_dim_without_a_kernel_lists_what_there_is() {
    let q = spec(DType::F16, &[1, 1, 8, 48]);
    let error = Attention::new().plan(&QkvSpec::new(q, q, q), &Target::Gpu(GpuTarget::A100)).unwrap_err();
    assert!(matches!(error, Error::NoKernel { .. }));
    let text = error.to_string();
    assert!(text.contains("head_dim 48") && text.contains("[32, 64, 96, 128]"), "{text}");
    let f32 = spec(DType::F32, &[1, 1, 8, 64]);
    let error = Attention::new().plan(&QkvSpec::new(f32, f32, f32), &Target::Gpu(GpuTarget::A100)).unwrap_err();
    assert!(matches!(error, Error::UnsupportedDType { dtype: DType::F32, .. }), "{error}");
    let old = GpuTarget { compute_capability: warpfold::ComputeCapability { major: 7, minor: 5 }, ..GpuTarget::A100 };
    let d64 = spec(DType::F16, &[1, 1, 8, 64]);
    let error = Attention::new().plan(&QkvSpec::new(d64, d64, d64), &Target::Gpu(old)).unwrap_err();
    assert!(error.to_string().contains("compute capability 7.5"), "{error}");
}

#[test]
fn options_have_ranges() {
    let q = tensor(&[1, 1, 2, 8]);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = Attention::new().scale(scale).forward(&Qkv::new(&q, &q, &q)).unwrap_err();
        assert!(matches!(error, Error::Option { name: "scale", .. }), "{error}");
    }
    for offset in [i64::MAX, i64::from(i32::MAX), i64::MIN] {
        let error = Attention::new().mask(Mask::causal().offset(offset)).forward(&Qkv::new(&q, &q, &q)).unwrap_err();
        assert!(matches!(error, Error::Option { name: "the mask's offset", .. }), "{error}");
    }
    let error = LayerNorm::new().eps(-1.0).forward(&LayerNormInputs::new(&q)).unwrap_err();
    assert!(matches!(error, Error::Option { name: "eps", .. }), "{error}");
    let weight = tensor(&[7]);
    let error = LayerNorm::new().forward(&LayerNormInputs::new(&q).weight(&weight)).unwrap_err();
    assert!(matches!(error, Error::Shape { tensor: "weight", .. }), "{error}");
}

#[test]
fn views_stay_within_their_memory() {
    let memory = tensor(&[4, 8]);
    assert!(matches!(
        memory.view().with_layout(Layout::strided(&[4, 8], &[8, 1], 1).unwrap()),
        Err(Error::OutOfBounds { last: 32, elements: 32, .. })
    ));
    assert!(matches!(memory.view().narrow(0, 3, 2), Err(Error::NoSuchDimension { .. })));
    assert!(matches!(memory.view().transpose(0, 2), Err(Error::NoSuchDimension { .. })));
    assert!(matches!(
        TensorRef::from_slice(&[1.0f32; 5], [2, 3]),
        Err(Error::ElementCount { given: 5, needed: 6, .. })
    ));
    assert!(matches!(TensorMut::from_slice(&mut [1.0f32; 5], [2, 3]), Err(Error::ElementCount { .. })));
    assert!(matches!(Tensor::from_slice(&Device::cpu(), &[1.0f32; 5], [6]), Err(Error::ElementCount { .. })));
    assert!(matches!(memory.to_vec::<f16>(), Err(Error::DTypeMismatch { .. })));
    assert!(matches!(tensor(&[1; 6]).reshape([1; 7]), Err(Error::TooManyDimensions { rank: 7, limit: 6 })));
}

#[test]
fn a_plan_refuses_what_it_was_not_made_for() {
    let device = Device::cpu();
    let q = tensor(&[1, 2, 4, 8]);
    let inputs = Qkv::new(&q, &q, &q);
    let plan = Attention::new().plan(&inputs.spec(), &device.target()).unwrap();
    let stream = device.stream();
    let mut workspace = plan.workspace(&stream).unwrap();
    let mut output = tensor(&[1, 2, 4, 8]);
    let longer = tensor(&[1, 2, 5, 8]);
    let mut call = |inputs: &Qkv<'_>, output: &mut Tensor| {
        plan.forward_into(&stream, inputs, AttentionOutputs::new(output), &mut workspace)
    };
    assert!(call(&inputs, &mut output).is_ok());
    let error = call(&Qkv::new(&q, &longer, &longer), &mut output).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "k", .. }), "{error}");
    let error = call(&inputs, &mut tensor(&[1, 2, 4, 9])).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "the output", .. }), "{error}");
    let lengths = SeqLens::new(&device, &[3]).unwrap();
    let error = call(&inputs.key_lengths(&lengths), &mut output).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "whether key lengths are given", .. }), "{error}");
    // The workspace of a smaller problem.
    let small = tensor(&[1, 2, 4, 2]);
    let small_plan = Attention::new().plan(&Qkv::new(&small, &small, &small).spec(), &device.target()).unwrap();
    let mut small_workspace = small_plan.workspace(&stream).unwrap();
    let error =
        plan.forward_into(&stream, &inputs, AttentionOutputs::new(&mut output), &mut small_workspace).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "the workspace", .. }), "{error}");
}

#[test]
fn a_gpu_plan_does_not_run_on_the_cpu() {
    let q = Tensor::from_slice(&Device::cpu(), &[f16::ONE; 128], [1, 1, 2, 64]).unwrap();
    let inputs = Qkv::new(&q, &q, &q);
    let plan = Attention::new().plan(&inputs.spec(), &Target::Gpu(GpuTarget::A100)).unwrap();
    let error = plan.workspace(&Device::cpu().stream()).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "the device", .. }), "{error}");
}

#[test]
fn devices_that_are_not_there_say_why() {
    for name in ["gpu", "cuda:x", "emulator:sm_70", ""] {
        assert!(matches!(name.parse::<Device>(), Err(Error::DeviceName { .. })), "{name}");
    }
    let error = Device::cuda(4096).map(|device| device.to_string()).unwrap_err();
    let known = matches!(
        error,
        Error::NoDriver { .. }
            | Error::NoGpu { .. }
            | Error::DriverTooOld { .. }
            | Error::NoSuchDevice { .. }
            | Error::KernelsNotBuilt { .. }
            | Error::FeatureDisabled { .. }
    );
    assert!(known, "{error}");
    let best = Device::best();
    assert!(!best.reason().is_empty(), "{best}");
}

#[cfg(feature = "emulator")]
#[test]
fn tensors_of_two_devices_are_refused() {
    let emulator = match "emulator:sm_80".parse::<Device>() {
        Ok(device) => device,
        Err(error) => return common::skipped("tensors of two devices", error),
    };
    let on = |device: &Device| Tensor::from_slice(device, &[f16::ONE; 128], [1, 1, 2, 64]).unwrap();
    let (here, there) = (on(&Device::cpu()), on(&emulator));
    let error = Attention::new().forward(&Qkv::new(&there, &here, &there)).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { tensor: "k", .. }), "{error}");
    let error = Attention::new().forward(&Qkv::new(&here, &here, &there)).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { tensor: "v", .. }), "{error}");
    let lengths = SeqLens::new(&Device::cpu(), &[1]).unwrap();
    let error = Attention::new().forward(&Qkv::new(&there, &there, &there).key_lengths(&lengths)).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { tensor: "key_lengths", .. }), "{error}");
    // Two emulators have memories of their own.
    let other = on(&"emulator:sm_80".parse().unwrap());
    let error = Attention::new().forward(&Qkv::new(&there, &other, &there)).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { .. }), "{error}");
}
