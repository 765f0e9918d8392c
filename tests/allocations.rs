//! The `*_into` calls allocate nothing on the CPU device.

use std::alloc::{GlobalAlloc, Layout as AllocLayout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use warpfold::{
    Attention, AttentionOutputs, DType, Device, LayerNorm, LayerNormInputs, LayerNormOutputs, Mask, Qkv, SeqLens,
    Softmax, Tensor,
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

// One test, so that no other test of this binary allocates meanwhile.
#[test]
fn calls_into_given_tensors_allocate_nothing() {
    let device = Device::cpu();
    let stream = device.stream();
    // One pool throughout, all of its threads started: threads allocate when they start and when they end.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    pool.broadcast(|_| ());
    assert!(allocations(&pool, || drop(std::hint::black_box(vec![1u8; 10]))) >= 10, "the counter counts");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let zeros = |shape: &[usize]| Tensor::zeros(&device, dtype, shape).expect("a small tensor");
        let q = zeros(&[2, 4, 130, 64]);
        let lengths = SeqLens::new(&device, &[100, 130]).expect("valid lengths");
        let mut output = zeros(&[2, 4, 130, 64]);
        let mut lse = Tensor::zeros(&device, DType::F32, [2, 4, 130]).expect("a small tensor");
        let inputs = Qkv::new(&q, &q, &q).key_lengths(&lengths);
        let plan =
            Attention::new().mask(Mask::causal()).plan(&inputs.spec(), &device.target()).expect("a valid problem");
        // The workspace is for the pool that the calls run on.
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let count = allocations(&pool, || {
            let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
            plan.forward_into(&stream, &inputs, outputs, &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "attention of {dtype}");

        let x = zeros(&[100, 333]);
        let mut y = zeros(&[100, 333]);
        let plan = Softmax::new().plan(&x.view().spec(), None, &device.target()).expect("a valid problem");
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let count =
            allocations(&pool, || plan.forward_into(&stream, &x, &mut y, &mut workspace).expect("a valid call"));
        assert_eq!(count, 0, "softmax of {dtype}");

        let inputs = LayerNormInputs::new(&x);
        let plan = LayerNorm::new().plan(&inputs.spec(), &device.target()).expect("a valid problem");
        let mut workspace = pool.install(|| plan.workspace(&stream)).expect("a workspace");
        let count = allocations(&pool, || {
            plan.forward_into(&stream, &inputs, LayerNormOutputs::new(&mut y), &mut workspace).expect("a valid call");
        });
        assert_eq!(count, 0, "layer norm of {dtype}");
    }
}
