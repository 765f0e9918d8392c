//! The `*_into` calls allocate nothing on the CPU device.

use std::alloc::{GlobalAlloc, Layout as AllocLayout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use warpfold::{
    Attention, AttentionForward, AttentionOutputs, AttentionState, BackwardInputs, BackwardSpec, DType, Device,
    GradientOutputs, LayerNorm, LayerNormInputs, LayerNormOutputs, Mask, Qkv, SeqLens, Softmax, Tensor,
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
    let states = states.each_ref();
    let sinks = zeros(DType::F32, &[4]);
    let (mut output, mut lse) = (zeros(dtype, &[2, 4, 50, 72]), zeros(DType::F32, &[2, 4, 50]));
    let count = allocations(pool, || {
        let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
        AttentionState::merge_into(&stream, &states, Some(sinks.view()), outputs).expect("a valid call");
    });
    assert_eq!(count, 0, "a merge into {dtype}");
}

/// Softmax and layer norm.
fn check_rows(pool: &rayon::ThreadPool, dtype: DType) {
    let device = Device::cpu();
    let stream = device.stream();
    let (x, mut y) = (zeros(dtype, &[100, 333]), zeros(dtype, &[100, 333]));
    let plan = Softmax::new().plan(&x.view().spec(), None, &device.target()).expect("a valid problem");
    let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
    let count = allocations(pool, || plan.forward_into(&stream, &x, &mut y, &mut workspace).expect("a valid call"));
    assert_eq!(count, 0, "softmax of {dtype}");

    let inputs = LayerNormInputs::new(&x);
    let plan = LayerNorm::new().plan(&inputs.spec(), &device.target()).expect("a valid problem");
    let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
    let count = allocations(pool, || {
        plan.forward_into(&stream, &inputs, LayerNormOutputs::new(&mut y), &mut workspace).expect("a valid call");
    });
    assert_eq!(count, 0, "layer norm of {dtype}");
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
        check_rows(&pool, dtype);
    }
}
