//! Bad input: each rule of the contract has its own error, with the values in it, before anything runs.

mod common;

use half::f16;
use warpfold::{
    Attention, AttentionBackwardPlan, AttentionForward, AttentionOutputs, AttentionState, BackwardInputs, BackwardSpec,
    DType, Device, Error, GpuTarget, GradientOutputs, Layout, LengthsSpec, Mask, Norm, NormBackwardInputs,
    NormBackwardSpec, NormGradientOutputs, NormInputs, NormOutputs, NormSpec, Qkv, QkvSpec, SeqLens, Softmax,
    SoftmaxBackwardSpec, SoftmaxInputs, SoftmaxSpec, Target, Tensor, TensorMut, TensorRef, TensorSpec,
};

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::zeros(&Device::cpu(), DType::F32, shape).expect("a small tensor")
}

fn bytes(shape: &[usize]) -> Tensor {
    Tensor::zeros(&Device::cpu(), DType::U8, shape).expect("a small tensor")
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
    assert!(matches!(Softmax::new().backward(&integers, &integers), Err(Error::UnsupportedDType { .. })));
    assert!(matches!(Norm::layer().forward(&NormInputs::new(&integers)), Err(Error::UnsupportedDType { .. })));
    let backward = Norm::rms().backward(&NormBackwardInputs::new(&integers, &integers));
    assert!(matches!(backward, Err(Error::UnsupportedDType { .. })));
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
    let x = q.view().spec();
    let (softmax, norm) = (Softmax::new(), Norm::layer());
    for (error, name) in [
        (softmax.plan(&SoftmaxSpec::new(x).output(output), &Target::Cpu).map(drop), "the output"),
        (softmax.plan(&SoftmaxSpec::new(output).in_place(), &Target::Cpu).map(drop), "the output"),
        (softmax.plan_backward(&SoftmaxBackwardSpec::new(x, x).d_x(output), &Target::Cpu).map(drop), "d_x"),
        (softmax.plan_backward(&SoftmaxBackwardSpec::new(x, output).in_place(), &Target::Cpu).map(drop), "d_x"),
        (norm.plan(&NormSpec::new(x).output(output), &Target::Cpu).map(drop), "the output"),
        (norm.plan(&NormSpec::new(x).residual(x).sum(output), &Target::Cpu).map(drop), "the sum"),
        (norm.plan_backward(&NormBackwardSpec::new(x, x).d_x(output), &Target::Cpu).map(drop), "d_x"),
        (norm.plan_backward(&NormBackwardSpec::new(x, x).d_residual(output), &Target::Cpu).map(drop), "d_residual"),
    ] {
        let error = error.expect_err(name);
        assert!(matches!(&error, Error::Overlap { tensor, .. } if *tensor == name), "{error}");
    }
    // What is only read may repeat itself.
    assert!(softmax.plan(&SoftmaxSpec::new(output), &Target::Cpu).is_ok());
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
    let wide = spec(DType::F16, &[4, long]);
    for target in [Target::Cpu, Target::Gpu(GpuTarget::A100)] {
        for (x, what) in [(rows, "the number of rows"), (wide, "the number of columns")] {
            let refused = |error: Error| {
                assert_eq!(error, Error::TooLarge { what, value: long, limit: i32::MAX as usize });
            };
            refused(Softmax::new().plan(&SoftmaxSpec::new(x), &target).unwrap_err());
            refused(Softmax::new().plan_backward(&SoftmaxBackwardSpec::new(x, x), &target).unwrap_err());
            refused(Norm::rms().plan(&NormSpec::new(x), &target).unwrap_err());
            refused(Norm::rms().plan_backward(&NormBackwardSpec::new(x, x), &target).unwrap_err());
        }
    }
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
    for ((head_dim, head_dim_v), wanted) in [
        ((44, 44), "head_dim 44 with v's head_dim 44"),
        ((264, 264), "head_dim 264 with v's head_dim 264"),
        ((64, 20), "head_dim 64 with v's head_dim 20"),
        ((64, 512), "head_dim 64 with v's head_dim 512"),
    ] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (q, v) = (spec(dtype, &[1, 1, 8, head_dim]), spec(dtype, &[1, 1, 8, head_dim_v]));
            let qkv = QkvSpec::new(q, q, v);
            let target = Target::Gpu(GpuTarget::A100);
            let forward = Attention::new().plan(&qkv, &target).unwrap_err();
            let backward = Attention::new().plan_backward(&BackwardSpec::new(qkv), &target).unwrap_err();
            for error in [forward, backward] {
                assert!(matches!(error, Error::NoKernel { .. }), "{error}");
                let text = error.to_string();
                assert!(text.contains(wanted) && text.contains("multiples of 8 up to 256"), "{text}");
            }
        }
    }
    let old = GpuTarget { compute_capability: warpfold::ComputeCapability { major: 7, minor: 5 }, ..GpuTarget::A100 };
    let d64 = spec(DType::F16, &[1, 1, 8, 64]);
    let error = Attention::new().plan(&QkvSpec::new(d64, d64, d64), &Target::Gpu(old)).unwrap_err();
    assert!(error.to_string().contains("compute capability 7.5"), "{error}");
}

/// Every head_dim that is a multiple of 8 up to 256, of v too, has kernels of every type on GPUs with little shared memory.
#[test]
fn every_head_dim_up_to_256_has_kernels() {
    let dims = || (8..=256).step_by(8);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (head_dim, head_dim_v) in dims().flat_map(|d| dims().map(move |dv| (d, dv))) {
            let (q, v) = (spec(dtype, &[1, 1, 8, head_dim]), spec(dtype, &[1, 1, 8, head_dim_v]));
            let qkv = QkvSpec::new(q, q, v);
            for target in [GpuTarget::A100, GpuTarget::A40, GpuTarget::L40S, GpuTarget::H100].map(Target::Gpu) {
                Attention::new().plan(&qkv, &target).unwrap_or_else(|error| panic!("{error}"));
                let backward = BackwardSpec::new(qkv.clone().bias(spec(dtype, &[1, 1, 8, 8])));
                Attention::new().plan_backward(&backward, &target).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}

#[test]
fn options_have_ranges() {
    let q = tensor(&[1, 1, 2, 8]);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = Attention::new().scale(scale).forward(&Qkv::new(&q, &q, &q)).unwrap_err();
        assert!(matches!(error, Error::Option { name: "scale", .. }), "{error}");
    }
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = Attention::new().softcap(cap).forward(&Qkv::new(&q, &q, &q)).unwrap_err();
        assert!(error.to_string() == format!("softcap is {cap}; it must be finite and above 0"), "{error}");
    }
    for probability in [1.0, -0.5, 2.0, f32::NAN] {
        let error = Attention::new().dropout(probability).forward(&Qkv::new(&q, &q, &q)).unwrap_err();
        let expected = format!("the dropout probability is {probability}; it must be in [0, 1)");
        assert!(error.to_string() == expected, "{error}");
    }
    assert!(Attention::new().dropout(0.0).forward(&Qkv::new(&q, &q, &q)).is_ok());
    for offset in [i64::MAX, i64::from(i32::MAX), 1 << 29, -(1 << 29), i64::MIN + 1, i64::MIN] {
        for mask in [Mask::none(), Mask::causal()] {
            let error = Attention::new().mask(mask.offset(offset)).forward(&Qkv::new(&q, &q, &q)).unwrap_err();
            assert!(matches!(error, Error::Option { name: "the mask's offset", .. }), "{error}");
            assert!(error.to_string().contains(&format!("is {}; ", offset as f64)), "{error}");
        }
    }
    for offset in [(1 << 29) - 1, 1 - (1 << 29)] {
        assert!(Attention::new().mask(Mask::causal().offset(offset)).forward(&Qkv::new(&q, &q, &q)).is_ok());
    }
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let expected = format!("the softmax scale is {scale}; it must be finite and positive");
        let softmax = Softmax::new().scale(scale);
        assert_eq!(softmax.forward(&q).unwrap_err().to_string(), expected);
        assert_eq!(softmax.backward(&q, &q).unwrap_err().to_string(), expected);
    }
    assert!(matches!(Softmax::new().temperature(0.0).forward(&q), Err(Error::Option { .. })));
    let error = Softmax::new().mask(Mask::causal().offset(1 << 29)).forward(&q).unwrap_err();
    assert!(matches!(error, Error::Option { name: "the mask's offset", .. }), "{error}");
    let both_ways = |norm: Norm, expected: &str| {
        for norm in [norm, norm.zero_centered(true)] {
            assert_eq!(norm.forward(&NormInputs::new(&q)).unwrap_err().to_string(), expected);
            assert_eq!(norm.backward(&NormBackwardInputs::new(&q, &q)).unwrap_err().to_string(), expected);
        }
    };
    for norm in [Norm::layer(), Norm::rms()] {
        for eps in [-1.0, f32::NAN, f32::INFINITY] {
            both_ways(norm.eps(eps), &format!("eps is {eps}; it must be finite and not negative"));
        }
        for probability in [1.0, -0.5, 2.0, f32::NAN] {
            let expected = format!("the dropout probability is {probability}; it must be in [0, 1)");
            both_ways(norm.dropout(probability), &expected);
        }
        assert!(norm.eps(0.0).dropout(0.0).forward(&NormInputs::new(&q)).is_ok());
    }
}

/// The error's text for softmax of x `[2, 3, 8]`, f16.
fn softmax_refused(softmax: Softmax, spec: impl FnOnce(SoftmaxSpec) -> SoftmaxSpec) -> String {
    let spec = spec(SoftmaxSpec::new(self::spec(DType::F16, &[2, 3, 8])));
    let errors = [Target::Cpu, Target::Gpu(GpuTarget::A100)]
        .map(|target| softmax.plan(&spec, &target).expect_err("a bad input").to_string());
    assert_eq!(errors[0], errors[1], "a GPU says something else");
    errors.into_iter().next().expect("two errors")
}

/// A stride other than 1 in the last dimension.
fn strided(dtype: DType, shape: &[usize], strides: &[usize]) -> TensorSpec {
    TensorSpec { layout: Layout::strided(shape, strides, 0).expect("a valid layout"), ..spec(dtype, shape) }
}

#[test]
fn masks_and_biases_of_softmax_broadcast_to_x() {
    for shape in [&[2, 3, 7][..], &[3, 3, 8], &[1, 2, 3, 8], &[2], &[2, 1]] {
        let expected = format!("has shape {shape:?}; [2, 3, 8] is needed, because it has that shape, or 1");
        let text = softmax_refused(Softmax::new(), |x| x.mask(spec(DType::U8, shape)));
        assert!(text.starts_with(&format!("mask {expected}")), "{text}");
        let text = softmax_refused(Softmax::new(), |x| x.bias(spec(DType::F32, shape)));
        assert!(text.starts_with(&format!("bias {expected}")), "{text}");
    }
    for dtype in [DType::F16, DType::I32] {
        let text = softmax_refused(Softmax::new(), |x| x.mask(spec(dtype, &[8])));
        assert_eq!(text, format!("mask is {dtype}; u8 is needed"));
    }
    for dtype in [DType::U8, DType::I32, DType::BF16] {
        let text = softmax_refused(Softmax::new(), |x| x.bias(spec(dtype, &[8])));
        assert_eq!(text, format!("bias is {dtype}; f16 is needed"));
    }
    let text = softmax_refused(Softmax::new(), |x| x.bias(strided(DType::F32, &[3, 8], &[1, 3])));
    assert!(text.starts_with("the last dimension of bias has stride 3; it must be 1"), "{text}");
    let text = softmax_refused(Softmax::new(), |x| x.mask(strided(DType::U8, &[8], &[2])));
    assert!(text.starts_with("the last dimension of mask has stride 2; it must be 1"), "{text}");
    // A bias of x's type or of f32, and any shape that broadcasts.
    for shape in [&[2, 3, 8][..], &[3, 8], &[8], &[1], &[2, 1, 1], &[1, 1, 8], &[]] {
        for dtype in [DType::F16, DType::F32] {
            let x = SoftmaxSpec::new(spec(DType::F16, &[2, 3, 8]));
            let inputs = x.bias(spec(dtype, shape)).mask(spec(DType::U8, shape));
            Softmax::new().plan(&inputs, &Target::Cpu).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn a_mask_by_position_needs_queries_and_keys() {
    let x = tensor(&[8]);
    assert!(Softmax::new().forward(&x).is_ok());
    let error = Softmax::new().mask(Mask::causal()).forward(&x).unwrap_err();
    assert_eq!(error.to_string(), "x has shape [8] of rank 1; [..., queries, keys] under a mask is needed");
    let scalar = tensor(&[]);
    let error = Softmax::new().forward(&scalar).unwrap_err();
    assert_eq!(error.to_string(), "x has shape [] of rank 0; [..., columns] is needed");
    assert!(matches!(Norm::rms().forward(&NormInputs::new(&scalar)), Err(Error::Rank { tensor: "x", .. })));
}

#[test]
fn results_of_softmax_have_the_shape_and_type_of_x() {
    let text = softmax_refused(Softmax::new(), |x| x.output(spec(DType::F32, &[2, 3, 8])));
    assert_eq!(text, "the output is f32; f16 is needed");
    let text = softmax_refused(Softmax::new(), |x| x.output(spec(DType::F16, &[3, 2, 8])));
    assert!(text.starts_with("the output has shape [3, 2, 8]; [2, 3, 8] is needed"), "{text}");
    let y = spec(DType::F16, &[2, 3, 8]);
    let refused = |spec: SoftmaxBackwardSpec| Softmax::new().plan_backward(&spec, &Target::Cpu).unwrap_err();
    let float = spec(DType::F32, &[2, 3, 8]);
    for (spec, tensor) in
        [(SoftmaxBackwardSpec::new(y, float), "d_y"), (SoftmaxBackwardSpec::new(y, y).d_x(float), "d_x")]
    {
        assert_eq!(refused(spec), Error::DTypeMismatch { tensor, dtype: DType::F32, expected: DType::F16 });
    }
    let other = spec(DType::F16, &[6, 8]);
    for (spec, name) in
        [(SoftmaxBackwardSpec::new(y, other), "d_y"), (SoftmaxBackwardSpec::new(y, y).d_x(other), "d_x")]
    {
        let error = refused(spec);
        assert!(matches!(&error, Error::Shape { tensor, .. } if *tensor == name), "{error}");
    }
    let error = Softmax::new().forward(SoftmaxInputs::in_place()).unwrap_err();
    assert_eq!(error, Error::Missing { tensor: "x" });
}

/// Rows of every tensor are contiguous; only a bias or a mask is repeated along them.
#[test]
fn rows_are_contiguous() {
    let x = spec(DType::F32, &[4, 8]);
    for (stride, other) in [(2, strided(DType::F32, &[4, 8], &[16, 2])), (0, strided(DType::F32, &[4, 8], &[1, 0]))] {
        let (softmax, norm) = (Softmax::new(), Norm::layer());
        let target = Target::Gpu(GpuTarget::A100);
        let refused = |error: Option<Error>, name: &str| {
            let error = error.unwrap_or_else(|| panic!("{name} with stride {stride} is planned for"));
            let is_right =
                matches!(&error, Error::LastStride { tensor, stride: of, .. } if *tensor == name && *of == stride);
            assert!(is_right, "{name}: {error}");
        };
        refused(softmax.plan(&SoftmaxSpec::new(other), &target).err(), "x");
        refused(softmax.plan_backward(&SoftmaxBackwardSpec::new(other, x), &target).err(), "y");
        refused(softmax.plan_backward(&SoftmaxBackwardSpec::new(x, other).d_x(x), &target).err(), "d_y");
        refused(norm.plan(&NormSpec::new(other), &target).err(), "x");
        refused(norm.plan(&NormSpec::new(x).residual(other), &target).err(), "residual");
        refused(norm.plan_backward(&NormBackwardSpec::new(other, x), &target).err(), "d_y");
        refused(norm.plan_backward(&NormBackwardSpec::new(x, other), &target).err(), "the sum");
        refused(norm.plan_backward(&NormBackwardSpec::new(x, x).d_sum(other), &target).err(), "d_sum");
        let vector = strided(DType::F32, &[8], &[stride]);
        refused(norm.plan(&NormSpec::new(x).weight(vector), &target).err(), "weight");
        refused(norm.plan(&NormSpec::new(x).bias(vector), &target).err(), "bias");
        refused(norm.plan_backward(&NormBackwardSpec::new(x, x).weight(vector), &target).err(), "weight");
    }
    let repeated = strided(DType::F32, &[4, 8], &[1, 0]);
    assert!(Softmax::new().plan(&SoftmaxSpec::new(x).bias(repeated), &Target::Cpu).is_ok());
}

#[test]
fn tensors_of_a_norm_have_its_shape() {
    let x = spec(DType::F16, &[2, 3, 8]);
    let forward = |spec: NormSpec| {
        let plan = |target: Target| Norm::layer().plan(&spec, &target).unwrap_err().to_string();
        let errors = [Target::Cpu, Target::Gpu(GpuTarget::A100)].map(plan);
        assert_eq!(errors[0], errors[1]);
        errors[0].clone()
    };
    let backward = |spec: NormBackwardSpec| {
        let plan = |target: Target| Norm::rms().plan_backward(&spec, &target).unwrap_err().to_string();
        let errors = [Target::Cpu, Target::Gpu(GpuTarget::A100)].map(plan);
        assert_eq!(errors[0], errors[1]);
        errors[0].clone()
    };
    let (new, new_backward) = (NormSpec::new(x), NormBackwardSpec::new(x, x));
    for shape in [&[7][..], &[1], &[3, 8], &[]] {
        let vector = spec(DType::F32, shape);
        let expected = format!("has shape {shape:?}; [8] is needed, because it has one value a column");
        assert_eq!(forward(new.weight(vector)), format!("weight {expected}"));
        assert_eq!(forward(new.bias(vector)), format!("bias {expected}"));
        assert_eq!(backward(new_backward.weight(vector)), format!("weight {expected}"));
        assert_eq!(backward(new_backward.bias(vector)), format!("bias {expected}"));
    }
    let other = spec(DType::F16, &[3, 2, 8]);
    let expected = "has shape [3, 2, 8]; [2, 3, 8] is needed, because all rows have one shape";
    assert_eq!(forward(new.residual(other)), format!("residual {expected}"));
    assert_eq!(forward(new.output(other)), format!("the output {expected}"));
    assert_eq!(forward(new.residual(x).sum(other)), format!("the sum {expected}"));
    assert_eq!(backward(NormBackwardSpec::new(x, other)), format!("the sum {expected}"));
    assert_eq!(backward(new_backward.d_sum(other)), format!("d_sum {expected}"));
    assert_eq!(backward(new_backward.d_x(other)), format!("d_x {expected}"));
    assert_eq!(backward(new_backward.d_residual(other)), format!("d_residual {expected}"));
    assert_eq!(
        forward(NormSpec::new(spec(DType::F16, &[2, 0]))),
        "x is empty: its shape is [2, 0], and only len_kv may be 0"
    );
    // Every tensor is of a float type.
    let bytes = spec(DType::U8, &[2, 3, 8]);
    for spec in [NormSpec::new(bytes), new.residual(bytes), new.output(bytes), new.weight(spec(DType::I32, &[8]))] {
        let error = Norm::layer().plan(&spec, &Target::Cpu).unwrap_err();
        assert!(matches!(error, Error::UnsupportedDType { operation: "layer norm", .. }), "{error}");
    }
    for spec in [new_backward.d_sum(bytes), new_backward.d_x(bytes), new_backward.bias(spec(DType::U8, &[8]))] {
        let error = Norm::rms().plan_backward(&spec, &Target::Cpu).unwrap_err();
        assert!(matches!(error, Error::UnsupportedDType { operation: "RMS norm", .. }), "{error}");
    }
}

#[test]
fn a_softmax_plan_refuses_what_it_was_not_made_for() {
    let device = Device::cpu();
    let stream = device.stream();
    let (x, longer, bias, mask) = (tensor(&[2, 80]), tensor(&[2, 90]), tensor(&[80]), bytes(&[2, 1]));
    let mismatch = |error: warpfold::Result<()>, expected: &str| {
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::PlanMismatch { what, .. } if *what == expected), "{expected}: {error}");
    };
    let softmax = Softmax::new();
    let run = |spec: SoftmaxSpec, inputs: SoftmaxInputs<'_>, y: &mut Tensor| {
        let plan = softmax.plan(&spec, &device.target()).unwrap();
        plan.forward_into(&stream, inputs, y, &mut plan.workspace(&stream).unwrap())
    };
    let new = SoftmaxSpec::new(x.view().spec());
    let with = |x: &Tensor| -> SoftmaxSpec { new.bias(x.view().spec()) };
    let y = || tensor(&[2, 80]);
    mismatch(run(new, SoftmaxInputs::new(&longer), &mut y()), "x");
    mismatch(run(new, SoftmaxInputs::new(&x), &mut tensor(&[2, 90])), "the output");
    mismatch(run(new, SoftmaxInputs::new(&x).bias(&bias), &mut y()), "bias");
    mismatch(run(with(&bias), SoftmaxInputs::new(&x), &mut y()), "bias");
    mismatch(run(with(&bias), SoftmaxInputs::new(&x).bias(&x), &mut y()), "bias");
    mismatch(run(new, SoftmaxInputs::new(&x).mask(&mask), &mut y()), "mask");
    mismatch(run(new.mask(mask.view().spec()), SoftmaxInputs::new(&x).mask(&bytes(&[80])), &mut y()), "mask");
    // In place or not is part of the plan.
    mismatch(run(new.in_place(), SoftmaxInputs::new(&x), &mut y()), "x");
    mismatch(run(new, SoftmaxInputs::in_place(), &mut y()), "x");
    mismatch(softmax.forward_in_place(SoftmaxInputs::new(&x), &mut y()), "x");

    let spec = SoftmaxBackwardSpec::new(x.view().spec(), x.view().spec());
    let plan = softmax.plan_backward(&spec, &device.target()).unwrap();
    let mut workspace = plan.workspace(&stream).unwrap();
    mismatch(plan.backward_into(&stream, [longer.view(), x.view()], &mut y(), &mut workspace), "y");
    mismatch(plan.backward_into(&stream, [x.view(), longer.view()], &mut y(), &mut workspace), "d_y");
    mismatch(plan.backward_into(&stream, [x.view(); 2], &mut tensor(&[2, 90]), &mut workspace), "d_x");
    let replaced = "a d_y that is not replaced";
    mismatch(plan.backward_in_place(&stream, &x, &mut y(), &mut workspace), replaced);
    let plan = softmax.plan_backward(&spec.in_place(), &device.target()).unwrap();
    mismatch(plan.backward_into(&stream, [x.view(); 2], &mut y(), &mut workspace), replaced);
    assert!(plan.backward_in_place(&stream, &x, &mut y(), &mut workspace).is_ok());
    // The workspace of shorter rows.
    let short = tensor(&[2, 3]).view().spec();
    let mut small = softmax.plan(&SoftmaxSpec::new(short), &device.target()).unwrap().workspace(&stream).unwrap();
    mismatch(plan.backward_in_place(&stream, &x, &mut y(), &mut small), "the workspace");
}

#[test]
fn a_norm_plan_refuses_what_it_was_not_made_for() {
    let device = Device::cpu();
    let stream = device.stream();
    let (x, longer, vector) = (tensor(&[2, 8]), tensor(&[2, 9]), tensor(&[8]));
    let mismatch = |error: warpfold::Result<()>, expected: &str| {
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::PlanMismatch { what, .. } if *what == expected), "{expected}: {error}");
    };
    let plain = || NormInputs::new(&x);
    // A planned call with these outputs beside y.
    let run = |norm: Norm, planned: NormInputs<'_>, given: NormInputs<'_>, y: &[usize], more: [Option<&[usize]>; 3]| {
        let plan = norm.plan(&planned.spec(), &device.target()).unwrap();
        let mut y = tensor(y);
        let [mut sum, mut mean, mut rstd] = more.map(|shape| shape.map(tensor));
        let mut outputs = NormOutputs::new(&mut y);
        if let Some(sum) = &mut sum {
            outputs = outputs.sum(sum);
        }
        if let Some(mean) = &mut mean {
            outputs = outputs.mean(mean);
        }
        if let Some(rstd) = &mut rstd {
            outputs = outputs.rstd(rstd);
        }
        plan.forward_into(&stream, &given, outputs, &mut plan.workspace(&stream).unwrap())
    };
    let (layer, rms) = (Norm::layer(), Norm::rms());
    let (right, stats): (&[usize], &[usize]) = (&[2, 8], &[2]);
    assert!(run(layer, plain(), plain(), right, [None, Some(stats), Some(stats)]).is_ok());
    mismatch(run(layer, plain(), NormInputs::new(&longer), right, [None; 3]), "x");
    mismatch(run(layer, plain(), plain(), &[2, 9], [None; 3]), "the output");
    mismatch(run(layer, plain(), plain().residual(&x), right, [None; 3]), "residual");
    mismatch(run(layer, plain().residual(&x), plain(), right, [None; 3]), "residual");
    mismatch(run(layer, plain().weight(&vector), plain(), right, [None; 3]), "weight");
    mismatch(run(layer, plain(), plain().bias(&vector), right, [None; 3]), "bias");
    // Without a residual there is no sum, and RMS norm has no mean.
    mismatch(run(layer, plain(), plain(), right, [Some(right), None, None]), "a sum");
    mismatch(run(layer, plain().residual(&x), plain().residual(&x), right, [Some(&[8, 2]), None, None]), "the sum");
    assert!(run(layer.dropout(0.5), plain(), plain(), right, [Some(right), None, None]).is_ok());
    mismatch(run(rms, plain(), plain(), right, [None, Some(stats), None]), "a mean");
    mismatch(run(layer, plain(), plain(), right, [None, Some(&[2, 1]), None]), "mean");
    mismatch(run(rms, plain(), plain(), right, [None, None, Some(&[3])]), "rstd");

    let plain = || NormBackwardInputs::new(&x, &x);
    let stats = tensor(&[2]);
    let run = |norm: Norm,
               planned: NormBackwardSpec,
               given: NormBackwardInputs<'_>,
               d_x: &[usize],
               more: [Option<&[usize]>; 3]| {
        let plan = norm.plan_backward(&planned, &device.target()).unwrap();
        let mut d_x = tensor(d_x);
        let [mut d_residual, mut d_weight, mut d_bias] = more.map(|shape| shape.map(tensor));
        let mut outputs = NormGradientOutputs::new(&mut d_x);
        if let Some(d_residual) = &mut d_residual {
            outputs = outputs.d_residual(d_residual);
        }
        if let Some(d_weight) = &mut d_weight {
            outputs = outputs.d_weight(d_weight);
        }
        if let Some(d_bias) = &mut d_bias {
            outputs = outputs.d_bias(d_bias);
        }
        plan.backward_into(&stream, &given, outputs, &mut plan.workspace(&stream).unwrap())
    };
    let of = |given: NormBackwardInputs<'_>| given.spec();
    let whole = plain().weight(&vector).bias(&vector).d_sum(&x).mean(&stats).rstd(&stats);
    assert!(run(layer, of(whole), whole, right, [None, Some(&[8]), Some(&[8])]).is_ok());
    assert!(run(layer, of(whole), whole, right, [None; 3]).is_ok(), "what is left out is not computed");
    mismatch(run(layer, of(plain()), NormBackwardInputs::new(&longer, &x), right, [None; 3]), "d_y");
    mismatch(run(layer, of(plain()), NormBackwardInputs::new(&x, &longer), right, [None; 3]), "the sum");
    mismatch(run(layer, of(plain()), plain().weight(&vector), right, [None; 3]), "weight");
    mismatch(run(layer, of(plain().bias(&vector)), plain(), right, [None; 3]), "bias");
    mismatch(run(layer, of(plain()), plain().d_sum(&x), right, [None; 3]), "d_sum");
    mismatch(run(layer, of(whole), plain().weight(&vector).bias(&vector).d_sum(&x), right, [None; 3]), "rstd");
    mismatch(run(rms, of(plain()), plain().rstd(&stats), right, [None; 3]), "rstd");
    let three = tensor(&[3]);
    mismatch(run(rms, of(plain().rstd(&stats)), plain().rstd(&three), right, [None; 3]), "rstd");
    let given = plain().mean(&three).rstd(&stats);
    mismatch(run(layer, of(given), given, right, [None; 3]), "mean");
    mismatch(run(layer, of(plain()), plain(), &[2, 9], [None; 3]), "d_x");
    mismatch(run(layer, of(plain()), plain(), right, [Some(right), None, None]), "d_residual");
    mismatch(run(layer, of(plain()), plain(), right, [None, Some(&[8]), None]), "d_weight");
    mismatch(run(layer, of(whole), whole, right, [None, None, Some(&[9])]), "d_bias");
    // An rstd without its mean.
    let alone = plain().rstd(&stats);
    assert_eq!(run(layer, of(alone), alone, right, [None; 3]).unwrap_err(), Error::Missing { tensor: "mean" });
    assert_eq!(layer.backward(&alone).map(drop).unwrap_err(), Error::Missing { tensor: "mean" });
    assert!(run(rms, of(alone), alone, right, [None; 3]).is_ok());
}

/// The error's text for inputs with q `[2, 4, 8, 16]` and k and v `[2, 2, 10, 16]`.
fn refused(what: impl FnOnce(QkvSpec) -> QkvSpec) -> String {
    let (q, k) = (spec(DType::F16, &[2, 4, 8, 16]), spec(DType::F16, &[2, 2, 10, 16]));
    let spec = what(QkvSpec::new(q, k, k));
    let errors = [Target::Cpu, Target::Gpu(GpuTarget::A100)].map(|target| {
        let forward = Attention::new().plan(&spec, &target).expect_err("a bad input").to_string();
        let backward = Attention::new().plan_backward(&BackwardSpec::new(spec.clone()), &target);
        assert_eq!(backward.expect_err("a bad input").to_string(), forward, "the backward pass says something else");
        forward
    });
    assert_eq!(errors[0], errors[1], "a GPU says something else");
    errors.into_iter().next().expect("two errors")
}

#[test]
fn a_bias_has_the_scores_shape_and_type() {
    let bias = |dtype, shape: &[usize]| {
        let bias = spec(dtype, shape);
        refused(|spec| spec.bias(bias))
    };
    assert_eq!(bias(DType::F32, &[2, 4, 8, 10]), "bias is f32; f16 is needed");
    assert_eq!(
        bias(DType::F16, &[4, 8, 10]),
        "bias has shape [4, 8, 10] of rank 3; [batch, heads_q, len_q, len_kv], with 1 where it is broadcast is needed"
    );
    for shape in [[2, 4, 8, 9], [2, 4, 8, 1], [2, 2, 8, 10], [2, 4, 9, 10], [3, 1, 1, 10]] {
        let text = bias(DType::F16, &shape);
        let expected =
            format!("bias has shape {shape:?}; [2, 4, 8, 10] is needed, because it has the scores' shape, or 1");
        assert!(text.starts_with(&expected), "{text}");
    }
    let strided = TensorSpec {
        layout: Layout::strided(&[1, 1, 8, 10], &[80, 80, 1, 8], 0).unwrap(),
        ..spec(DType::F16, &[1, 1, 8, 10])
    };
    assert!(refused(|spec| spec.bias(strided)).starts_with("the last dimension of bias has stride 8; it must be 1"));
}

#[test]
fn a_mask_has_the_scores_shape_and_bytes() {
    let mask = |dtype, shape: &[usize]| {
        let mask = spec(dtype, shape);
        refused(|spec| spec.mask(mask))
    };
    assert_eq!(mask(DType::F16, &[2, 4, 8, 10]), "mask is f16; u8 is needed");
    assert_eq!(
        mask(DType::U8, &[8, 10]),
        "mask has shape [8, 10] of rank 2; [batch, heads_q, len_q, len_kv], with 1 where it is broadcast is needed"
    );
    for shape in [[2, 4, 8, 9], [2, 2, 8, 10], [1, 1, 10, 8], [4, 1, 1, 1]] {
        let text = mask(DType::U8, &shape);
        let expected =
            format!("mask has shape {shape:?}; [2, 4, 8, 10] is needed, because it has the scores' shape, or 1");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn slopes_and_sinks_have_a_value_a_head() {
    let vector = |dtype, shape: &[usize], strides: &[usize]| TensorSpec {
        dtype,
        layout: Layout::strided(shape, strides, 0).unwrap(),
        alignment_bytes: 16,
    };
    let slopes = |dtype, shape: &[usize], strides: &[usize]| {
        let slopes = vector(dtype, shape, strides);
        refused(|spec| spec.alibi_slopes(slopes))
    };
    assert_eq!(slopes(DType::F16, &[4], &[1]), "alibi_slopes is f16; f32 is needed");
    assert_eq!(
        slopes(DType::F32, &[2], &[1]),
        "alibi_slopes has shape [2]; [4] is needed, because there is one slope a head, or one a sequence and head"
    );
    assert!(slopes(DType::F32, &[3, 4], &[4, 1]).starts_with("alibi_slopes has shape [3, 4]; [2, 4] is needed"));
    assert_eq!(
        slopes(DType::F32, &[2, 4], &[1, 2]),
        "alibi_slopes must be contiguous; it has shape [2, 4] and strides [1, 2]"
    );
    let sinks = |dtype, shape: &[usize], strides: &[usize]| {
        let sinks = vector(dtype, shape, strides);
        refused(|spec| spec.sinks(sinks))
    };
    assert_eq!(sinks(DType::F16, &[4], &[1]), "sinks is f16; f32 is needed");
    assert_eq!(
        sinks(DType::F32, &[2], &[1]),
        "sinks has shape [2]; [4] is needed, because there is one sink a query head"
    );
    assert!(sinks(DType::F32, &[2, 4], &[4, 1]).starts_with("sinks has shape [2, 4]; [4] is needed"));
    assert_eq!(sinks(DType::F32, &[4], &[2]), "sinks must be contiguous; it has shape [4] and strides [2]");
}

#[test]
fn a_key_range_is_within_the_keys() {
    #[allow(clippy::reversed_empty_ranges, reason = "a range that ends before it starts is what is refused")]
    let backwards = 7..3;
    for (range, text) in [(0..11, "0..11"), (11..11, "11..11"), (backwards, "7..3")] {
        let expected = format!("key_range {text} is not a range of the 10 keys");
        assert_eq!(refused(|spec| spec.key_range(range)), expected);
    }
    // Packed sequences: up to the longest one.
    let (q, k) = (spec(DType::F16, &[9, 2, 16]), spec(DType::F16, &[12, 2, 16]));
    let lengths = |max, total| LengthsSpec { count: 2, max, total };
    let packed = QkvSpec::new(q, k, k).packed(lengths(5, 9), lengths(8, 12));
    let error = Attention::new().plan(&packed.clone().key_range(2..9), &Target::Cpu).unwrap_err();
    assert_eq!(error, Error::KeyRange { start: 2, end: 9, len_kv: 8 });
    assert!(Attention::new().plan(&packed.key_range(2..8), &Target::Cpu).is_ok());
}

#[test]
fn packed_lengths_add_up() {
    let (q, k) = (tensor(&[9, 4, 8]), tensor(&[12, 2, 8]));
    let forward = |queries: &[i32], keys: &[i32]| -> Result<AttentionForward, Error> {
        let (queries, keys) = (SeqLens::new(&Device::cpu(), queries)?, SeqLens::new(&Device::cpu(), keys)?);
        Attention::new().forward(&Qkv::packed(&q, &k, &k, &queries, &keys))
    };
    assert!(forward(&[4, 0, 5], &[0, 2, 10]).is_ok());
    let error = forward(&[4, 4], &[6, 6]).unwrap_err();
    assert_eq!(error, Error::PackedLengths { tensor: "query_lengths", total: 8, rows: 9 });
    assert_eq!(error.to_string(), "the lengths in query_lengths add up to 8, but the packed tensor has 9 rows");
    let error = forward(&[4, 5], &[6, 7]).unwrap_err();
    assert_eq!(error, Error::PackedLengths { tensor: "key_lengths", total: 13, rows: 12 });
    let error = forward(&[4, 5], &[12]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "key_lengths has shape [1]; [2] is needed, because there is one length a sequence of the batch"
    );
    let lengths = SeqLens::new(&Device::cpu(), &[4, 5]).unwrap();
    let four = tensor(&[1, 4, 9, 8]);
    let error = Attention::new().forward(&Qkv::packed(&four, &four, &four, &lengths, &lengths)).unwrap_err();
    assert_eq!(error.to_string(), "q has shape [1, 4, 9, 8] of rank 4; [total, heads, head_dim] is needed");
    // Shapes are named as they were given.
    let (lengths, narrow) = (SeqLens::new(&Device::cpu(), &[9]).unwrap(), tensor(&[9, 4, 16]));
    let error = Attention::new().forward(&Qkv::packed(&q, &narrow, &narrow, &lengths, &lengths)).unwrap_err();
    assert!(error.to_string().starts_with("k has shape [9, 4, 16]; [9, 4, 8] is needed"), "{error}");
    let none = tensor(&[0, 4, 8]);
    let error = Attention::new().forward(&Qkv::packed(&none, &q, &q, &lengths, &lengths)).unwrap_err();
    assert!(matches!(error, Error::Empty { tensor: "q", .. }), "{error}");
    assert!(SeqLens::from_cumulative(&Device::cpu(), &[0, 4, 9]).is_ok_and(|lengths| lengths.total() == 9));
    let error = SeqLens::from_cumulative(&Device::cpu(), &[1, 4]).unwrap_err();
    assert_eq!(error.to_string(), "the first start is 1; it must be 0");
    let error = SeqLens::from_cumulative(&Device::cpu(), &[0, 4, 3]).unwrap_err();
    assert_eq!(error, Error::NegativeLength { index: 1, length: -1 });
}

#[test]
fn gradients_have_the_shape_of_what_they_belong_to() {
    let (q, k) = (spec(DType::F16, &[2, 4, 8, 16]), spec(DType::F16, &[2, 2, 10, 16]));
    let bias = spec(DType::F16, &[1, 4, 8, 10]);
    let qkv = QkvSpec::new(q, k, k);
    let refused = |spec: BackwardSpec| {
        let plan = |target: Target| Attention::new().plan_backward(&spec, &target);
        let errors = [Target::Cpu, Target::Gpu(GpuTarget::A100)].map(|target| plan(target).unwrap_err().to_string());
        assert_eq!(errors[0], errors[1]);
        errors[0].clone()
    };
    let backward = || BackwardSpec::new(qkv.clone());
    assert_eq!(
        refused(backward().d_output(spec(DType::F16, &[2, 4, 8, 8]))),
        "d_output has shape [2, 4, 8, 8]; [2, 4, 8, 16] is needed, because a gradient has the shape of what it belongs to"
    );
    assert_eq!(refused(backward().d_output(spec(DType::F32, &[2, 4, 8, 16]))), "d_output is f32; f16 is needed");
    let text = refused(backward().gradients(k, k, k));
    assert!(text.starts_with("d_q has shape [2, 2, 10, 16]; [2, 4, 8, 16] is needed"), "{text}");
    let text = refused(backward().gradients(q, q, k));
    assert!(text.starts_with("d_k has shape [2, 4, 8, 16]; [2, 2, 10, 16] is needed"), "{text}");
    let repeated = TensorSpec { layout: Layout::strided(&[2, 2, 10, 16], &[160, 0, 16, 1], 0).unwrap(), ..k };
    let text = refused(backward().gradients(q, k, repeated));
    assert!(text.starts_with("the elements of d_v overlap in memory: shape [2, 2, 10, 16]"), "{text}");
    let text = refused(backward().d_bias(bias));
    assert!(text.starts_with("d_bias has shape [1, 4, 8, 10]") && text.contains("a bias"), "{text}");
    let text = refused(BackwardSpec::new(qkv.clone().bias(bias)).d_bias(spec(DType::F16, &[2, 4, 8, 10])));
    assert_eq!(text, "d_bias has shape [2, 4, 8, 10]; [1, 4, 8, 10] is needed, because it has the bias's shape");
    let text = refused(BackwardSpec::new(qkv.clone().bias(bias)).d_bias(spec(DType::F32, &[1, 4, 8, 10])));
    assert_eq!(text, "d_bias is f32; f16 is needed");
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let state = |output: &[usize], lse: &[usize]| {
        AttentionState::from_natural_log(AttentionForward { output: tensor(output), lse: tensor(lse) })
    };
    let good = || state(&[1, 2, 5, 8], &[1, 2, 5]).expect("a valid state");
    assert_eq!(
        state(&[1, 2, 5, 8], &[1, 2, 6]).unwrap_err().to_string(),
        "lse has shape [1, 2, 6]; [1, 2, 5] is needed, because there is one a row of the output"
    );
    // Packed: lse is [heads, total].
    assert!(state(&[5, 2, 8], &[2, 5]).is_ok());
    assert!(matches!(state(&[5, 2, 8], &[5, 2]), Err(Error::Shape { tensor: "lse", .. })));
    assert!(matches!(state(&[5, 8], &[5]), Err(Error::Rank { tensor: "the output", .. })));
    let half = Tensor::zeros(&Device::cpu(), DType::F16, [1, 2, 5, 8]).unwrap();
    let error =
        AttentionState::from_natural_log(AttentionForward { output: half, lse: tensor(&[1, 2, 5]) }).unwrap_err();
    assert_eq!(error, Error::DTypeMismatch { tensor: "the output", dtype: DType::F16, expected: DType::F32 });

    let error = AttentionState::merge(&[]).unwrap_err();
    assert!(error.to_string().starts_with("the number of states is 0; it must be between 1 and 16"), "{error}");
    let one = good();
    let error = AttentionState::merge(&[&one; 17]).unwrap_err();
    assert!(error.to_string().starts_with("the number of states is 17; it must be between 1 and 16"), "{error}");
    assert!(AttentionState::merge(&[&one; 16]).is_ok());
    let longer = state(&[1, 2, 6, 8], &[1, 2, 6]).unwrap();
    let error = AttentionState::merge(&[&one, &longer]).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "a state's output", .. }), "{error}");
    assert!(error.to_string().contains("[1, 2, 6, 8]") && error.to_string().contains("[1, 2, 5, 8]"), "{error}");
    let sinks = tensor(&[3]);
    let error = one.finish(DType::F16, Some(sinks.view())).unwrap_err();
    assert!(error.to_string().contains("shape [3]") && error.to_string().contains("shape [2]"), "{error}");
    let error = one.finish(DType::U8, None).unwrap_err();
    assert!(matches!(error, Error::UnsupportedDType { dtype: DType::U8, .. }), "{error}");
    let mut narrow = tensor(&[1, 2, 5, 4]);
    let outputs = AttentionOutputs::new(&mut narrow);
    let error = AttentionState::merge_into(&Device::cpu().stream(), &[one.view()], None, outputs).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the output has shape [1, 2, 5, 4]; [1, 2, 5, 8] is needed, because it has the shape of the states"
    );
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
    let error = call(&inputs.clone().key_lengths(&lengths), &mut output).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "whether key lengths are given", .. }), "{error}");
    // The workspace of a smaller problem.
    let large = tensor(&[1, 2, 4, 40]);
    let inputs = Qkv::new(&large, &large, &large);
    let plan = Attention::new().plan(&inputs.spec(), &device.target()).unwrap();
    let mut output = tensor(&[1, 2, 4, 40]);
    let error = plan.forward_into(&stream, &inputs, AttentionOutputs::new(&mut output), &mut workspace).unwrap_err();
    assert!(matches!(error, Error::PlanMismatch { what: "the workspace", .. }), "{error}");
}

#[test]
fn scratch_memory_is_small_and_does_not_grow_with_scores() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
    let device = Device::cpu();
    let sizes = [1024, 16384].map(|len| {
        let q = tensor(&[1, 8, len, 128]);
        let inputs = Qkv::new(&q, &q, &q);
        let plan = Attention::new().plan(&inputs.spec(), &device.target()).expect("a valid problem");
        let forward = pool.install(|| plan.workspace(&device.stream())).expect("a workspace").size_bytes();
        let spec = BackwardSpec::new(inputs.spec());
        let plan = Attention::new().plan_backward(&spec, &device.target()).expect("a valid problem");
        [forward, pool.install(|| plan.workspace(&device.stream())).expect("a workspace").size_bytes()]
    });
    let [[forward, _], [forward_of_long, backward_of_long]] = sizes;
    assert_eq!(forward, forward_of_long);
    // A head's d_q in f32 for each thread, and a number a row.
    let grows_by = 4 * 16384 * 128 * 4 + 8 * 16384 * 4;
    assert!(forward_of_long < 4 << 20, "{forward_of_long} bytes");
    assert!(backward_of_long < (8 << 20) + grows_by, "{backward_of_long} bytes");
}

#[test]
fn a_plan_refuses_options_that_it_was_not_made_for() {
    let device = Device::cpu();
    let q = tensor(&[1, 2, 4, 8]);
    let (bias, mask, slopes, sinks) = (tensor(&[1, 1, 4, 4]), bytes(&[1, 1, 1, 4]), tensor(&[2]), tensor(&[2]));
    let plain = || Qkv::new(&q, &q, &q);
    let every = || plain().bias(&bias).mask(&mask).alibi_slopes(&slopes).sinks(&sinks).key_range(0..3);
    let stream = device.stream();
    let run = |planned: &Qkv<'_>, given: &Qkv<'_>| -> [Error; 2] {
        let plan = Attention::new().plan(&planned.spec(), &device.target()).unwrap();
        let (mut output, mut lse) = (tensor(&[1, 2, 4, 8]), tensor(&[1, 2, 4]));
        let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
        let forward = plan.forward_into(&stream, given, outputs, &mut plan.workspace(&stream).unwrap());
        let spec = BackwardSpec::new(planned.spec());
        let plan = Attention::new().plan_backward(&spec, &device.target()).unwrap();
        let mut gradients = [(); 3].map(|()| tensor(&[1, 2, 4, 8]));
        let [d_q, d_k, d_v] = &mut gradients;
        let outputs = GradientOutputs::new(d_q, d_k, d_v);
        let backward = BackwardInputs::new(&output, &lse, &output);
        let mut workspace = plan.workspace(&stream).unwrap();
        let backward = plan.backward_into(&stream, given, &backward, outputs, &mut workspace);
        [forward.unwrap_err(), backward.unwrap_err()]
    };
    for (planned, given, expected) in [
        (plain(), plain().bias(&bias), "whether a bias is given"),
        (plain().bias(&bias), plain(), "whether a bias is given"),
        (plain(), plain().mask(&mask), "whether a mask is given"),
        (plain(), plain().alibi_slopes(&slopes), "whether ALiBi slopes are given"),
        (plain().sinks(&sinks), plain(), "whether sinks are given"),
        (every(), every().key_range(0..4), "the range of keys"),
        (every(), every().bias(&tensor(&[1, 1, 1, 4])), "the bias"),
        (every(), every().mask(&bytes(&[1, 2, 1, 4])), "the mask"),
    ] {
        for error in run(&planned, &given) {
            assert!(matches!(&error, Error::PlanMismatch { what, .. } if *what == expected), "{error}");
        }
    }
    let [error, _] = run(&every(), &every().bias(&tensor(&[1, 1, 1, 4])));
    assert!(error.to_string().contains("shape [1, 1, 1, 4]") && error.to_string().contains("shape [1, 1, 4, 4]"));
    let [error, _] = run(&every(), &every().key_range(0..4));
    assert_eq!(
        error.to_string(),
        "the range of keys differs from what the plan was made for: Some(0..4) instead of Some(0..3)"
    );
}

#[test]
fn a_backward_plan_refuses_what_it_was_not_made_for() {
    let device = Device::cpu();
    let stream = device.stream();
    let q = tensor(&[1, 2, 4, 8]);
    let (inputs, lse, sinks) = (Qkv::new(&q, &q, &q), tensor(&[1, 2, 4]), tensor(&[2]));
    let plan = |inputs: &Qkv<'_>| -> AttentionBackwardPlan {
        Attention::new().plan_backward(&BackwardSpec::new(inputs.spec()), &device.target()).unwrap()
    };
    let same: [&[usize]; 3] = [&[1, 2, 4, 8]; 3];
    let run = |inputs: &Qkv<'_>, backward: BackwardInputs<'_>, shapes: [&[usize]; 3], more: [Option<&[usize]>; 2]| {
        let plan = plan(inputs);
        let [mut d_q, mut d_k, mut d_v] = shapes.map(tensor);
        let [mut d_bias, mut d_sinks] = more.map(|shape| shape.map(tensor));
        let mut outputs = GradientOutputs::new(&mut d_q, &mut d_k, &mut d_v);
        if let Some(d_bias) = &mut d_bias {
            outputs = outputs.d_bias(d_bias);
        }
        if let Some(d_sinks) = &mut d_sinks {
            outputs = outputs.d_sinks(d_sinks);
        }
        let mut workspace = plan.workspace(&stream).unwrap();
        plan.backward_into(&stream, inputs, &backward, outputs, &mut workspace).unwrap_err()
    };
    let (long, short_lse, half) =
        (tensor(&[1, 2, 5, 8]), tensor(&[1, 2, 3]), Tensor::zeros(&device, DType::F16, [1, 2, 4, 8]).unwrap());
    for (backward, expected) in [
        (BackwardInputs::new(&long, &lse, &q), "the output"),
        (BackwardInputs::new(&q, &short_lse, &q), "lse"),
        (BackwardInputs::new(&q, &lse, &long), "d_output"),
        (BackwardInputs::new(&q, &lse, &half), "d_output"),
        (BackwardInputs::new(&q, &lse, &q).d_lse(&short_lse), "d_lse"),
        // Of another rank.
        (BackwardInputs::new(&q, &lse, &lse), "d_output"),
    ] {
        let error = run(&inputs, backward, same, [None; 2]);
        assert!(matches!(&error, Error::PlanMismatch { what, .. } if *what == expected), "{error}");
    }
    let good = BackwardInputs::new(&q, &lse, &q);
    for (index, name) in ["d_q", "d_k", "d_v"].into_iter().enumerate() {
        let mut shapes = same;
        shapes[index] = &[1, 2, 4, 9];
        let error = run(&inputs, good, shapes, [None; 2]);
        assert!(matches!(&error, Error::PlanMismatch { what, .. } if *what == name), "{error}");
        assert!(error.to_string().contains("[1, 2, 4, 9]") && error.to_string().contains("[1, 2, 4, 8]"), "{error}");
    }
    // A gradient of what is not there.
    let error = run(&inputs, good, same, [Some(&[1, 1, 4, 4]), None]);
    assert!(matches!(error, Error::PlanMismatch { what: "d_bias", .. }), "{error}");
    let error = run(&inputs, good, same, [None, Some(&[2])]);
    assert!(matches!(error, Error::PlanMismatch { what: "whether sinks are given", .. }), "{error}");
    let error = run(&Qkv::new(&q, &q, &q).sinks(&sinks), good, same, [None, Some(&[3])]);
    assert!(matches!(error, Error::PlanMismatch { what: "d_sinks", .. }), "{error}");
    // The workspaces of another problem, and of the forward pass.
    let small = tensor(&[1, 2, 3, 8]);
    let small_plan = plan(&Qkv::new(&small, &small, &small));
    let mut forward = Attention::new().plan(&inputs.spec(), &device.target()).unwrap().workspace(&stream).unwrap();
    for workspace in [&mut small_plan.workspace(&stream).unwrap(), &mut forward] {
        let mut gradients = [(); 3].map(|()| tensor(&[1, 2, 4, 8]));
        let [d_q, d_k, d_v] = &mut gradients;
        let outputs = GradientOutputs::new(d_q, d_k, d_v);
        let error = plan(&inputs).backward_into(&stream, &inputs, &good, outputs, workspace).unwrap_err();
        assert!(matches!(error, Error::PlanMismatch { what: "the workspace", .. }), "{error}");
    }
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
    let bias = Tensor::from_slice(&Device::cpu(), &[f16::ONE; 4], [1, 1, 2, 2]).unwrap();
    let error = Attention::new().forward(&Qkv::new(&there, &there, &there).bias(&bias)).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { tensor: "bias", .. }), "{error}");
    let forward = Attention::new().forward(&Qkv::new(&here, &here, &here)).unwrap();
    let backward = BackwardInputs::new(&there, &forward.lse, &there);
    let error = Attention::new().backward(&Qkv::new(&there, &there, &there), &backward).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { tensor: "lse", .. }), "{error}");
    let (rows, vector) = (|x: &Tensor| Softmax::new().forward(SoftmaxInputs::new(&there).bias(x)), on(&Device::cpu()));
    assert!(matches!(rows(&vector), Err(Error::DeviceMismatch { tensor: "bias", .. })));
    let norm = Norm::layer().forward(&NormInputs::new(&there).residual(&here));
    assert!(matches!(norm, Err(Error::DeviceMismatch { tensor: "residual", .. })));
    let norm = Norm::rms().backward(&NormBackwardInputs::new(&there, &here));
    assert!(matches!(norm, Err(Error::DeviceMismatch { tensor: "the sum", .. })));
    // Two emulators have memories of their own.
    let other = on(&"emulator:sm_80".parse().unwrap());
    let error = Attention::new().forward(&Qkv::new(&there, &other, &there)).unwrap_err();
    assert!(matches!(error, Error::DeviceMismatch { .. }), "{error}");
}
