//! The `*_into` calls allocate nothing on the CPU device.

use std::alloc::{GlobalAlloc, Layout as AllocLayout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use warpfold::{
    Attention, AttentionForward, AttentionOutputs, AttentionState, BackwardInputs, BackwardSpec, DType, Device,
    GradientOutputs, Mask, Norm, NormBackwardInputs, NormInputs, Qkv, SeqLens, Softmax, SoftmaxBackwardSpec,
    SoftmaxInputs, SoftmaxSpec, Tensor,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: AllocLayout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: AllocLayout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of all threads while `call` runs ten times, after some runs to warm up: a thread of the pool allocates once
/// when it first takes work from another. The call runs inside the pool: what enters it from outside is queued by rayon in
/// blocks, which it allocates.
fn allocations(pool: &rayon::ThreadPool, mut call: impl FnMut() + Send) -> usize {
    pool.install(|| {
        (0..50).for_each(|_| call());
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        (0..10).for_each(|_| call());
        ALLOCATIONS.load(Ordering::SeqCst) - before
    })
}

fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(&Device::cpu(), dtype, shape).expect("a small tensor")
}

/// Forward and backward pass of attention.
fn check_attention(pool: &rayon::ThreadPool, what: &str, attention: Attention, inputs: &Qkv<'_>) {
    let device = Device::cpu();
    let stream = device.stream();
    let plan = attention.plan(&inputs.spec(), &device.target()).expect("a valid problem");
    let dtype = plan.output_dtype();
    let (mut output, mut lse) =
        (zeros(dtype, plan.output_layout().shape()), zeros(DType::F32, plan.lse_shape().as_slice()));
    // The workspace is for the pool that the calls run on.
    let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
    let count = allocations(pool, || {
        let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
        plan.forward_into(&stream, inputs, outputs, &mut workspace).expect("a valid call");
    });
    assert_eq!(count, 0, "attention of {dtype}, {what}");

    let plan = attention.plan_backward(&BackwardSpec::new(inputs.spec()), &device.target()).expect("a valid problem");
    let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
    let (d_output, d_lse) = (zeros(dtype, output.shape()), zeros(DType::F32, lse.shape()));
    let backward = BackwardInputs::new(&output, &lse, &d_output).d_lse(&d_lse);
    let mut gradients = attention.backward(inputs, &backward).expect("a valid call");
    let count = allocations(pool, || {
        plan.backward_into(&stream, inputs, &backward, gradients.outputs(), &mut workspace).expect("a valid call");
    });
    assert_eq!(count, 0, "attention backward of {dtype}, {what}");
    let count = allocations(pool, || {
        let outputs = GradientOutputs::new(&mut gradients.d_q, &mut gradients.d_k, &mut gradients.d_v);
        plan.backward_into(&stream, inputs, &backward, outputs, &mut workspace).expect("a valid call");
    });
    assert_eq!(count, 0, "attention backward of {dtype} without optional gradients, {what}");
}

/// The merging of partial results.
fn check_merge(pool: &rayon::ThreadPool, dtype: DType) {
    let stream = Device::cpu().stream();
    let states: [AttentionState; 3] = std::array::from_fn(|_| {
        let (output, lse) = (zeros(DType::F32, &[2, 4, 50, 72]), zeros(DType::F32, &[2, 4, 50]));
        AttentionState::from_natural_log(AttentionForward { output, lse }).expect("a valid state")
    });
    let states = states.each_ref().map(AttentionState::view);
    let sinks = zeros(DType::F32, &[4]);
    let (mut output, mut lse) = (zeros(dtype, &[2, 4, 50, 72]), zeros(DType::F32, &[2, 4, 50]));
    let count = allocations(pool, || {
        let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
        AttentionState::merge_into(&stream, &states, Some(sinks.view()), outputs).expect("a valid call");
    });
    assert_eq!(count, 0, "a merge into {dtype}");
}

/// Softmax, in place and not, with every option.
fn check_softmax(pool: &rayon::ThreadPool, dtype: DType) {
    let device = Device::cpu();
    let (stream, target) = (device.stream(), device.target());
    let (x, mut y) = (zeros(dtype, &[4, 25, 333]), zeros(dtype, &[4, 25, 333]));
    let (bias, mask) = (zeros(dtype, &[25, 333]), zeros(DType::U8, &[4, 1, 333]));
    let softmax = Softmax::new().scale(0.5).mask(Mask::causal().prefix(3));
    for softmax in [softmax, softmax.log(true)] {
        let spec = SoftmaxSpec::new(x.view().spec()).bias(bias.view().spec()).mask(mask.view().spec());
        let plan = softmax.plan(&spec, &target).expect("a valid problem");
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let inputs = SoftmaxInputs::new(&x).bias(&bias).mask(&mask);
        let count = allocations(pool, || {
            plan.forward_into(&stream, inputs, &mut y, &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "softmax of {dtype}");
        let plan = softmax.plan(&spec.in_place(), &target).expect("a valid problem");
        let inputs = SoftmaxInputs::in_place().bias(&bias).mask(&mask);
        let count = allocations(pool, || {
            plan.forward_into(&stream, inputs, &mut y, &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "softmax of {dtype} in place");

        let spec = SoftmaxBackwardSpec::new(x.view().spec(), x.view().spec());
        let plan = softmax.plan_backward(&spec, &target).expect("a valid problem");
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let count = allocations(pool, || {
            plan.backward_into(&stream, [x.view(), x.view()], &mut y, &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "softmax backward of {dtype}");
        let plan = softmax.plan_backward(&spec.in_place(), &target).expect("a valid problem");
        let count = allocations(pool, || {
            plan.backward_in_place(&stream, &x, &mut y, &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "softmax backward of {dtype} in place");
    }
}

/// Layer norm and RMS norm, with every option and with none.
fn check_norm(pool: &rayon::ThreadPool, dtype: DType, norm: Norm) {
    let device = Device::cpu();
    let (stream, target) = (device.stream(), device.target());
    let (x, weight) = (zeros(dtype, &[100, 333]), zeros(dtype, &[333]));
    let residual = zeros(DType::F32, &[100, 333]);
    for (norm, has_options) in [(norm, false), (norm.dropout(0.5), true)] {
        let mut inputs = NormInputs::new(&x);
        if has_options {
            inputs = inputs.weight(&weight).bias(&weight).residual(&residual);
        }
        let plan = norm.plan(&inputs.spec(), &target).expect("a valid problem");
        let mut forward = norm.return_stats(true).forward(&inputs).expect("a valid call");
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let count = allocations(pool, || {
            plan.forward_into(&stream, &inputs, forward.outputs(), &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "{norm:?} of {dtype}");

        let mut inputs = NormBackwardInputs::new(&x, &x);
        if has_options {
            inputs = inputs.weight(&weight).bias(&weight).d_sum(&residual);
        }
        let mut gradients = norm.backward(&inputs).expect("a valid call");
        let mut spec = inputs.spec();
        if let Some(d_residual) = &gradients.d_residual {
            spec = spec.d_residual(d_residual.view().spec());
        }
        let plan = norm.plan_backward(&spec, &target).expect("a valid problem");
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let count = allocations(pool, || {
            plan.backward_into(&stream, &inputs, gradients.outputs(), &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "{norm:?} backward of {dtype}");
    }
}

// One test, so that no other test of this binary allocates meanwhile.
#[test]
fn calls_into_given_tensors_allocate_nothing() {
    let device = Device::cpu();
    // One pool throughout, all of its threads started: threads allocate when they start and when they end.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    pool.broadcast(|_| ());
    assert!(allocations(&pool, || drop(std::hint::black_box(vec![1u8; 10]))) >= 10, "the counter counts");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let q = zeros(dtype, &[2, 4, 90, 32]);
        let lengths = SeqLens::new(&device, &[70, 90]).expect("valid lengths");
        let causal = Attention::new().mask(Mask::causal());
        check_attention(&pool, "causal", causal, &Qkv::new(&q, &q, &q).key_lengths(&lengths));

        let (bias, mask) = (zeros(dtype, &[1, 4, 90, 90]), zeros(DType::U8, &[2, 1, 1, 90]));
        let (slopes, sinks) = (zeros(DType::F32, &[2, 4]), zeros(DType::F32, &[4]));
        let every =
            Attention::new().mask(Mask::causal().window(Some(40), None).prefix(3).offset(2)).softcap(5.0).dropout(0.25);
        let inputs = Qkv::new(&q, &q, &q).key_range(5..80).bias(&bias).mask(&mask).alibi_slopes(&slopes).sinks(&sinks);
        check_attention(&pool, "every option", every, &inputs.dropout_state(1, 2));

        let packed = zeros(dtype, &[160, 4, 32]);
        check_attention(&pool, "packed", causal, &Qkv::packed(&packed, &packed, &packed, &lengths, &lengths));
        check_merge(&pool, dtype);
        check_softmax(&pool, dtype);
        check_norm(&pool, dtype, Norm::layer());
        check_norm(&pool, dtype, Norm::rms());
    }
}
