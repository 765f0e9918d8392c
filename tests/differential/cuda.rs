//! What only a GPU has: memory of cudarc's own, streams of the caller, and graphs. Held to the CPU device, which the
//! other tests hold to the oracle.

use std::sync::Arc;

use crate::common::{skipped, upload, values};
use half::f16;
use warpfold::cuda::cudarc::driver::{CudaContext, CudaStream, sys};
use warpfold::{
    Attention, AttentionForward, AttentionGradients, AttentionOutputs, BackwardInputs, BackwardSpec, DType, Device,
    Mask, Norm, NormBackwardInputs, NormForward, NormGradients, NormInputs, Qkv, SeqLens, Softmax, SoftmaxSpec, Tensor,
    TensorMut, TensorRef,
};

const SHAPE: [usize; 4] = [2, 3, 100, 64];

/// A stream of GPU 0, unless there is none. `Device::cuda` is asked first: cudarc panics where there is no driver.
fn gpu(test: &str) -> Option<(Arc<CudaContext>, Arc<CudaStream>)> {
    if let Err(error) = Device::cuda(0) {
        skipped(test, error);
        return None;
    }
    let context = CudaContext::new(0).expect("the device is there");
    let stream = context.new_stream().expect("a stream");
    Some((context, stream))
}

fn inputs() -> [Vec<f16>; 3] {
    [1, 2, 3]
        .map(|seed| values(seed, SHAPE.iter().product(), 0.3, 1.0, DType::F16).into_iter().map(f16::from_f64).collect())
}

fn attention() -> Attention {
    Attention::new().mask(Mask::causal())
}

/// The CPU device's result on the same inputs.
fn expected() -> Vec<f32> {
    let [q, k, v] = inputs().map(|values| Tensor::from_slice(&Device::cpu(), &values, SHAPE).expect("a valid tensor"));
    attention().forward(&Qkv::new(&q, &k, &v)).expect("a valid call").output.to_vec_f32().expect("f16")
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    // Both round to f16 once; the GPU rounds its probabilities too.
    let allowed = 4e-3 * expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() <= allowed, "{what}: element {index} is {actual} instead of {expected}");
    }
}

#[test]
fn cudarc_slices_are_borrowed_without_a_copy() {
    let Some((_, stream)) = gpu("cudarc_slices_are_borrowed_without_a_copy") else { return };
    let device = Device::cuda_on(stream.clone()).expect("a stream of a usable GPU");
    let [q, k, v] = inputs().map(|values| stream.clone_htod(&values).expect("GPU memory"));
    let mut output = stream.alloc_zeros::<f16>(SHAPE.iter().product()).expect("GPU memory");
    let [q, k, v] = [&q, &k, &v].map(|slice| TensorRef::from_cuda(&device, slice, SHAPE).expect("the slice fits"));
    let call = Qkv::new(q, k, v);
    let plan = attention().plan(&call.spec(), &device.target()).expect("a valid problem");
    let mut workspace = plan.workspace(&device.stream()).expect("a workspace");
    let view = TensorMut::from_cuda(&device, &mut output, SHAPE).expect("the slice fits");
    plan.forward_into(&device.stream(), &call, AttentionOutputs::new(view), &mut workspace).expect("a valid call");
    let output: Vec<f32> = stream.clone_dtoh(&output).expect("a copy").into_iter().map(f16::to_f32).collect();
    assert_close("borrowed slices", &output, &expected());
}

#[test]
fn a_tensor_becomes_a_cudarc_slice() {
    let Some((_, stream)) = gpu("a_tensor_becomes_a_cudarc_slice") else { return };
    let device = Device::cuda_on(stream.clone()).expect("a stream of a usable GPU");
    let x = upload(&device, DType::F32, &[1.0, 2.0, 3.0, 4.0], &[2, 2]).expect("a valid tensor");
    let slice = x.into_cuda_slice::<f32>().expect("a contiguous tensor of the GPU");
    assert_eq!(stream.clone_dtoh(&slice).expect("a copy"), [1.0, 2.0, 3.0, 4.0]);
    let x = upload(&device, DType::F32, &[1.0; 4], &[2, 2]).expect("a valid tensor");
    assert!(x.into_cuda_slice::<f16>().is_err(), "another type is refused");
}

#[test]
fn two_streams_of_one_gpu_share_memory() {
    let Some((context, stream)) = gpu("two_streams_of_one_gpu_share_memory") else { return };
    let first = Device::cuda_on(stream).expect("a stream of a usable GPU");
    let second = Device::cuda_on(context.new_stream().expect("a stream")).expect("a stream of a usable GPU");
    assert_eq!(first, second);
    let x = Tensor::from_slice(&first, &[0.0f32, 2f32.ln()], [1, 2]).expect("a valid tensor");
    let plan = Softmax::new().plan(&SoftmaxSpec::new(x.view().spec()), &second.target()).expect("a valid problem");
    let mut y = Tensor::zeros(&second, DType::F32, [1, 2]).expect("a valid tensor");
    let mut workspace = plan.workspace(&second.stream()).expect("a workspace");
    plan.forward_into(&second.stream(), &x, &mut y, &mut workspace).expect("a valid call");
    let y = y.to_vec::<f32>().expect("f32");
    assert!((y[0] - 1.0 / 3.0).abs() < 1e-6 && (y[1] - 2.0 / 3.0).abs() < 1e-6, "{y:?}");
}

/// The CPU device's gradients on the same inputs, where that of the output is q.
fn expected_gradients() -> AttentionGradients {
    let [q, k, v] = inputs().map(|values| Tensor::from_slice(&Device::cpu(), &values, SHAPE).expect("a valid tensor"));
    let call = Qkv::new(&q, &k, &v);
    let AttentionForward { output, lse } = attention().forward(&call).expect("a valid call");
    attention().backward(&call, &BackwardInputs::new(&output, &lse, &q)).expect("a valid call")
}

#[test]
fn a_graph_captures_planned_calls() {
    let Some((context, stream)) = gpu("a_graph_captures_planned_calls") else { return };
    // SAFETY: everything of this test runs on one stream, so that no event has to order it; events that were recorded
    // outside of a capture must not be waited for inside.
    unsafe { context.disable_event_tracking() };
    let device = Device::cuda_on(stream.clone()).expect("a stream of a usable GPU");
    let [q, k, v] = inputs().map(|values| Tensor::from_slice(&device, &values, SHAPE).expect("a valid tensor"));
    let lengths = SeqLens::new(&device, &[100, 100]).expect("valid lengths");
    let call = Qkv::new(&q, &k, &v).key_lengths(&lengths);
    let plan = attention().plan(&call.spec(), &device.target()).expect("a valid problem");
    let mut workspace = plan.workspace(&device.stream()).expect("a workspace");
    let AttentionForward { mut output, mut lse } = AttentionForward::allocate(&plan, &device).expect("GPU memory");
    let backward = attention().plan_backward(&BackwardSpec::new(call.spec()), &device.target());
    let backward = backward.expect("a valid problem");
    let mut backward_workspace = backward.workspace(&device.stream()).expect("a workspace");
    let mut gradients = AttentionGradients::allocate(&backward, &device).expect("GPU memory");
    stream.synchronize().expect("uploads");

    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .expect("the stream is not capturing");
    let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
    plan.forward_into(&device.stream(), &call, outputs, &mut workspace).expect("a valid call");
    let saved = BackwardInputs::new(&output, &lse, &q);
    backward
        .backward_into(&device.stream(), &call, &saved, gradients.outputs(), &mut backward_workspace)
        .expect("a valid call");
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .expect("a capture")
        .expect("the calls queued kernels");
    graph.launch().expect("a launch");
    assert_close("a graph", &output.to_vec_f32().expect("f16"), &expected());
    let AttentionGradients { d_q, d_k, d_v, .. } = expected_gradients();
    for (what, actual, expected) in
        [("d_q", &gradients.d_q, d_q), ("d_k", &gradients.d_k, d_k), ("d_v", &gradients.d_v, d_v)]
    {
        assert_close(what, &actual.to_vec_f32().expect("f16"), &expected.to_vec_f32().expect("f16"));
    }
    // SAFETY: as above; the other tests of this binary may rely on tracking.
    unsafe { context.enable_event_tracking() };
}

/// Softmax and a norm, forward and backward, of rows that several blocks share, in one graph.
#[test]
fn a_graph_captures_rows_that_blocks_share() {
    let Some((context, stream)) = gpu("a_graph_captures_rows_that_blocks_share") else { return };
    // SAFETY: everything of this test runs on one stream, so that no event has to order it; events that were recorded
    // outside of a capture must not be waited for inside.
    unsafe { context.disable_event_tracking() };
    let shape = [20, 40_000];
    let x_values = values(1, 20 * 40_000, 0.3, 1.0, DType::F32).into_iter().map(|value| value as f32);
    let x_values: Vec<f32> = x_values.collect();
    let device = Device::cuda_on(stream.clone()).expect("a stream of a usable GPU");
    let x = Tensor::from_slice(&device, &x_values, shape).expect("GPU memory");
    let weight = Tensor::from_slice(&device, &x_values[..40_000], [40_000]).expect("GPU memory");
    let zeros = |shape: &[usize]| Tensor::zeros(&device, DType::F32, shape).expect("GPU memory");

    let softmax = Softmax::new().plan(&SoftmaxSpec::new(x.view().spec()), &device.target()).expect("a valid problem");
    let mut y = zeros(&shape);
    let norm = Norm::layer().return_stats(true);
    let inputs = NormInputs::new(&x).weight(&weight);
    let forward = norm.plan(&inputs.spec(), &device.target()).expect("a valid problem");
    let mut normed = NormForward {
        output: zeros(&shape),
        sum: None,
        mean: Some(zeros(&shape[..1])),
        rstd: Some(zeros(&shape[..1])),
    };
    // The statistics are computed again, by launches of their own.
    let backward_inputs = NormBackwardInputs::new(&x, &x).weight(&weight);
    let backward = norm.plan_backward(&backward_inputs.spec(), &device.target()).expect("a valid problem");
    let mut gradients =
        NormGradients { d_x: zeros(&shape), d_residual: None, d_weight: Some(zeros(&shape[1..])), d_bias: None };
    let workspace = "a workspace";
    let mut softmax_workspace = softmax.workspace(&device.stream()).expect(workspace);
    let mut forward_workspace = forward.workspace(&device.stream()).expect(workspace);
    let mut backward_workspace = backward.workspace(&device.stream()).expect(workspace);
    stream.synchronize().expect("uploads");

    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .expect("the stream is not capturing");
    softmax.forward_into(&device.stream(), &x, &mut y, &mut softmax_workspace).expect("a valid call");
    forward.forward_into(&device.stream(), &inputs, normed.outputs(), &mut forward_workspace).expect("a valid call");
    backward
        .backward_into(&device.stream(), &backward_inputs, gradients.outputs(), &mut backward_workspace)
        .expect("a valid call");
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .expect("a capture")
        .expect("the calls queued kernels");
    graph.launch().expect("a launch");

    let [x, weight] = [(&x_values[..], &shape[..]), (&x_values[..40_000], &shape[1..])]
        .map(|(values, shape)| Tensor::from_slice(&Device::cpu(), values, shape).expect("a valid tensor"));
    let expected = Softmax::new().forward(&x).expect("a valid call");
    let expected_norm = norm.forward(&NormInputs::new(&x).weight(&weight)).expect("a valid call");
    let expected_gradients = norm.backward(&NormBackwardInputs::new(&x, &x).weight(&weight)).expect("a valid call");
    // Shares of so many elements are small.
    let large = |y: &Tensor| y.to_vec_f32().expect("f32").into_iter().map(|y| y * 40_000.0).collect::<Vec<f32>>();
    assert_close("softmax", &large(&y), &large(&expected));
    for (what, actual, expected) in
        [("layer norm", &normed.output, &expected_norm.output), ("d_x", &gradients.d_x, &expected_gradients.d_x)]
    {
        assert_close(what, &actual.to_vec_f32().expect("f32"), &expected.to_vec_f32().expect("f32"));
    }
    let d_weight =
        |gradients: &NormGradients| gradients.d_weight.as_ref().expect("it was asked for").to_vec_f32().expect("f32");
    assert_close("d_weight", &d_weight(&gradients), &d_weight(&expected_gradients));
    // SAFETY: as above; the other tests of this binary may rely on tracking.
    unsafe { context.enable_event_tracking() };
}
