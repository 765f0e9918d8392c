"""JAX: arrays of a library that imports DLPack itself, and whose arrays cannot be written."""

import importlib.util

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import warpfold as wf  # noqa: E402


def test_arrays_go_in_and_come_out():
    q = jax.random.normal(jax.random.key(0), (1, 2, 8, 16))
    out, lse = wf.attention(q, q, q, causal=True, return_lse=True)
    assert isinstance(out, jax.Array) and isinstance(lse, jax.Array)
    expected = jax.nn.dot_product_attention(*(q.swapaxes(1, 2),) * 3, is_causal=True).swapaxes(1, 2)
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_bfloat16_needs_pytorchs_memory():
    x = jax.numpy.ones((2, 16), jax.numpy.bfloat16)
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(RuntimeError, match="in bfloat16 are made in PyTorch's memory.*pip install torch"):
            wf.softmax(x)
    else:
        y = wf.softmax(x)
        assert isinstance(y, jax.Array) and y.dtype == jax.numpy.bfloat16
        assert (y == 1 / 16).all()


def test_arrays_are_not_written():
    x = np.ones((2, 16), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        wf.softmax(x, out=jax.numpy.asarray(x))
