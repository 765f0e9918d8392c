"""Which arrays go in, which come out, and what is said about the others."""

import gc
import multiprocessing
import sys
import threading
import time

import numpy as np
import pytest

import warpfold as wf


def array(*shape, dtype=np.float32):
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape)


class Exporter:
    """An array of a library that nobody knows, which counts what is asked of it."""

    def __init__(self, wrapped, namespace=True):
        self.wrapped, self.asked, self.namespace = wrapped, [], namespace

    def __dlpack__(self, **keywords):
        self.asked.append(keywords)
        return self.wrapped.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.wrapped.__dlpack_device__()


class Namespaced(Exporter):
    def __array_namespace__(self, **_):
        return Namespaced

    @staticmethod
    def from_dlpack(array):
        return Namespaced(np.from_dlpack(array))


def test_views_cost_no_copy_and_keep_their_order():
    packed = array(2, 7, 3, 4, 16)  # [batch, len, (q, k, v), heads, head_dim]
    q, k, v = (packed[:, :, i].swapaxes(1, 2) for i in range(3))
    out = wf.attention(q, k, v)
    np.testing.assert_array_equal(out, wf.attention(*(x.copy() for x in (q, k, v))))
    assert out.swapaxes(1, 2).flags.c_contiguous, "the result lies in memory as q does"
    wide = np.zeros((2, 7, 4, 32), np.float32)
    given = wide[..., :16].swapaxes(1, 2)
    assert wf.attention(q, k, v, out=given) is given
    np.testing.assert_array_equal(wide[..., :16].swapaxes(1, 2), out)
    assert not wide[..., 16:].any()


def test_inputs_are_read_where_they_are():
    # A copy that the function made would not see what a repeated (stride 0) or shared memory holds at the call.
    x = array(1, 4, 5, 16)
    view = np.broadcast_to(x[:, :1], x.shape)
    np.testing.assert_array_equal(wf.attention(x, view, view), wf.attention(x, view.copy(), view.copy()))
    before = sys.getrefcount(x)
    for _ in range(100):
        wf.attention(x, x, x)
    gc.collect()
    assert sys.getrefcount(x) == before, "no export outlives its call"
    exporter = Exporter(x)
    wf.softmax(exporter)
    assert all(keywords.get("copy") is None for keywords in exporter.asked) and exporter.asked


def test_the_rows_of_a_repeated_array_are_results_of_their_own():
    row = array(1, 16)
    for result in (wf.softmax(np.broadcast_to(row, (3, 16))), wf.layer_norm(np.broadcast_to(row, (3, 16)))):
        assert result.shape == (3, 16) and (result[0] == result[2]).all()


def test_results_are_of_the_kind_that_came_in():
    x = array(2, 16)
    assert type(wf.softmax(x)) is np.ndarray
    unknown = wf.softmax(Exporter(x))
    assert type(unknown) is np.ndarray, "NumPy stands in for a library without a namespace"
    known = wf.softmax(Namespaced(x))
    assert type(known) is Namespaced
    np.testing.assert_array_equal(known.wrapped, unknown)


def test_subclasses_of_ndarray_are_arrays():
    class Tagged(np.ndarray):
        pass

    np.testing.assert_array_equal(wf.softmax(array(2, 16).view(Tagged)), wf.softmax(array(2, 16)))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[1.0, 2.0]], TypeError, "x is a list; an array that exports DLPack is needed"),
        (None, TypeError, "x is a NoneType"),
        (array(2, 4).astype(np.float64), TypeError, "x is float64; float32, float16 or bfloat16 is needed"),
        (array(2, 4).astype(np.complex64), TypeError, "x is complex64"),
        (array(2, 4).astype(np.int64), TypeError, "x is int64"),
        (array(2, 4).astype(np.int32), TypeError, "i32"),
        (array(2, 4).astype(">f4"), TypeError, "x: .*byte order"),
        (array(2, 4).astype(object), TypeError, "x: "),
        (array(2, 4)[:, ::-1], ValueError, r"x has negative strides \[4, -1\]"),
        (array(2, 8)[:, ::2], ValueError, "last dimension of x has stride 2"),
        (array(4, 0), ValueError, r"empty.*\[4, 0\]"),
        (np.array(1.0, np.float32), ValueError, r"shape \[\]"),
        (array(1, 1, 1, 1, 1, 2, 2), ValueError, "at most 6 dimensions, not 7"),
    ],
)
def test_arrays_that_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        wf.softmax(given)


def test_memory_that_is_not_aligned_is_refused():
    odd = np.zeros(4 * 16 + 1, np.uint8)[1:].view(np.float32).reshape(1, 16)
    with pytest.raises(ValueError, match="not aligned for f32"):
        wf.softmax(odd)


def test_out_is_checked():
    x = array(2, 16)
    frozen = np.empty_like(x)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out cannot be written: it is read-only"):
        wf.softmax(x, out=frozen)
    with pytest.raises(ValueError, match=r"the output has shape \[2, 15\]|y has shape \[2, 15\]"):
        wf.softmax(x, out=np.empty((2, 15), np.float32))
    with pytest.raises(TypeError, match="f16"):
        wf.softmax(x, out=np.empty((2, 16), np.float16))
    with pytest.raises(ValueError, match="overlap in memory"):
        wf.softmax(x, out=np.lib.stride_tricks.as_strided(np.empty(16, np.float32), (2, 16), (0, 4)))
    q = array(1, 2, 4, 16)
    with pytest.raises(ValueError, match="out and k lie in the same memory"):
        wf.attention(array(1, 2, 4, 16), q, q.copy(), out=q)
    memory = array(3, 16)
    with pytest.raises(ValueError, match="out and x lie in the same memory"):
        wf.softmax(memory[:2], out=memory[1:])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"casual": True}, TypeError, r"attention\(\) got an unexpected keyword argument 'casual'; its options are causal"),
        ({"window": (-1, 0)}, ValueError, r"window is \(-1, 0\)"),
        ({"window": 3}, TypeError, "window: "),
        ({"scale": 0.0}, ValueError, "scale is 0"),
        ({"scale": "x"}, TypeError, "scale: "),
        ({"softcap": -1.0}, ValueError, "softcap is -1"),
        ({"dropout": 1.0}, ValueError, "dropout probability is 1"),
        ({"seed": -1}, ValueError, "seed: "),
        ({"offset": 2**32}, ValueError, "offset: "),
        ({"key_lengths": [5, 1]}, ValueError, r"\[2\].*\[1\]"),
        ({"key_lengths": [5]}, ValueError, "longest of key_lengths is 5, but k holds 4 keys"),
        ({"key_lengths": [-1]}, ValueError, "length of sequence 0 is -1"),
        ({"key_lengths": [1.5]}, TypeError, "key_lengths: "),
        ({"mask": array(4, 4)}, TypeError, "mask is f32; u8 is needed"),
        ({"mask": np.ones((3, 4), bool)}, ValueError, r"mask has shape \[1, 1, 3, 4\]; \[1, 2, 4, 4\]"),
        ({"bias": array(4, 4, dtype=np.float16)}, TypeError, "bias is f16; f32 is needed"),
        ({"sinks": array(3)}, ValueError, r"sinks has shape \[3\]; \[2\]"),
        ({"device": "tpu"}, ValueError, 'there is no device "tpu"'),
        ({"device": "cpu:avx1024"}, ValueError, "avx1024"),
        ({"device": "emulator:sm_70"}, ValueError, "emulator:sm_70"),
    ],
)
def test_options_that_are_refused(options, error, message):
    q = array(1, 2, 4, 16)
    with pytest.raises(error, match=message):
        wf.attention(q, q, q, **options)


def test_shapes_that_do_not_fit_are_named():
    q = array(1, 2, 4, 16)
    with pytest.raises(ValueError, match=r"k has shape \[1, 2, 4, 8\]"):
        wf.attention(q, q[..., :8], q)
    with pytest.raises(ValueError, match="3 query heads are not a multiple of 2 key heads"):
        wf.attention(array(1, 3, 4, 16), q, q)
    with pytest.raises(ValueError, match="q has shape .* of rank 3"):
        wf.attention(q[0], q, q)
    with pytest.raises(ValueError, match=r"cu_seqlens_q is \[1, 4\]: the first start is 1"):
        wf.attention_varlen(q[0], q[0], q[0], [1, 4], [0, 2])
    with pytest.raises(ValueError, match="add up to 3, but the packed tensor has 2 rows"):
        wf.attention_varlen(q[0], q[0], q[0], [0, 3], [0, 2])
    with pytest.raises(TypeError, match="packed sequences have no key_lengths"):
        wf.attention_varlen(q[0], q[0], q[0], [0, 2], [0, 2], key_lengths=[2])
    with pytest.raises(ValueError, match=r"weight has shape \[3\]; \[16\]"):
        wf.layer_norm(array(2, 16), array(3))


def test_gpus_that_are_not_there_say_why():
    if any(name.startswith("cuda") for name in wf.devices()):
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="no NVIDIA driver was found|shows no GPU|update the driver"):
        wf.softmax(array(2, 16), device="cuda:0")


def test_instruction_sets_can_be_named():
    x = array(3, 100)
    np.testing.assert_allclose(wf.softmax(x, device="cpu:portable"), wf.softmax(x, device="cpu"), atol=1e-6)


def test_the_lock_is_released_while_computing():
    q = array(1, 8, 2048, 64)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    for _ in range(3):
        wf.attention(q, q, q)
    end = time.perf_counter()
    stop.set()
    thread.join()
    during = sum(start < tick < end for tick in ticks)
    assert during >= 5, f"{during} ticks in {end - start:.3f} s"


def test_threads_may_call_at_once():
    x = array(4, 8, 128, 32)
    expected = wf.attention(x, x, x)
    results = [None] * 8

    def call(index):
        results[index] = wf.attention(x, x, x)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((result == expected).all() for result in results)


def _in_child(queue, x):
    queue.put(wf.attention(x, x, x))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_computes_too():
    x = array(4, 8, 128, 32)
    expected = wf.attention(x, x, x)  # the parent's threads are running now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, x))
    child.start()
    result = queue.get(timeout=60)
    child.join()
    np.testing.assert_array_equal(result, expected)


def test_no_panic_reaches_python():
    with pytest.raises(RuntimeError, match="warpfold panicked, which is a bug of its own: of course"):
        wf._native._panic("of course")
