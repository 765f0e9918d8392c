"""Softmax and norms, on every device for host memory, against NumPy in float64."""

import timeit

import numpy as np
import pytest
import reference

import warpfold as wf

SOFTMAX = {
    "plain": {},
    "scale": {"scale": 0.25},
    "log": {"log": True},
    "causal": {"causal": True},
    "window": {"window": (2, 1)},
    "mask": {"mask": np.arange(33) % 3 > 0},
    "bias": {"bias": np.linspace(-2, 2, 33, dtype=np.float32)},
    "all": {"scale": 2.0, "causal": True, "mask": np.arange(33) % 5 > 0, "bias": np.linspace(0, 1, 33, dtype=np.float32)},
    "all log": {"log": True, "causal": True, "mask": np.arange(33) % 5 > 1},
}


def values(rng, *shape, dtype=np.float32):
    return (rng.standard_normal(shape) + 0.5).astype(dtype)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax(rng, device, name):
    x = values(rng, 3, 7, 33)
    y = wf.softmax(x, device=device, **SOFTMAX[name])
    np.testing.assert_allclose(y, reference.softmax(x, **SOFTMAX[name]), atol=2e-6, rtol=2e-6)


def test_softmax_in_place_and_into_given_memory(rng, device):
    x = values(rng, 5, 33)
    expected = reference.softmax(x)
    wide = np.full((5, 40), np.nan, np.float32)
    assert wf.softmax(x, out=wide[:, 3:36], device=device) is not None
    np.testing.assert_allclose(wide[:, 3:36], expected, atol=2e-6)
    assert np.isnan(wide[:, :3]).all() and np.isnan(wide[:, 36:]).all()
    assert wf.softmax(x, out=x, device=device) is x
    np.testing.assert_allclose(x, expected, atol=2e-6)


def test_a_small_softmax_takes_no_longer_than_three_calls_of_numpy():
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
    out = np.empty_like(x)

    def of_numpy():
        weights = np.exp(x - x.max(-1, keepdims=True))
        return np.divide(weights, weights.sum(-1, keepdims=True), out=out)

    # The least of many turns, by turns: what else the machine does only adds to a turn.
    turns = [[timeit.timeit(call, number=500) for call in (lambda: wf.softmax(x, out=out), of_numpy)] for _ in range(60)]
    ours, theirs = (min(times) * 2e3 for times in zip(*turns))
    assert ours <= theirs, f"{ours:.1f} us against {theirs:.1f} us"


@pytest.mark.parametrize("log", [False, True])
def test_softmax_backward(rng, device, log):
    x, dy = values(rng, 2, 9), values(rng, 2, 9)
    y = wf.softmax(x, scale=0.7, log=log)
    expected = reference.gradient(lambda x: reference.softmax(x, scale=0.7, log=log), x, dy)
    np.testing.assert_allclose(wf.softmax_backward(dy, y, scale=0.7, log=log, device=device), expected, atol=2e-6)
    assert wf.softmax_backward(dy, y, scale=0.7, log=log, out=dy, device=device) is dy
    np.testing.assert_allclose(dy, expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("name", ["plain", "weight", "zero_centered", "residual"])
def test_norm(rng, device, kind, name):
    x, residual = values(rng, 2, 5, 33) + 3, values(rng, 2, 5, 33)
    weight, bias = values(rng, 33), values(rng, 33)
    centered = kind == "layer"
    given = {"eps": 1e-3}
    if name != "plain":
        given |= {"weight": weight, **({"bias": bias} if centered else {})}
    given |= {"zero_centered": True} if name == "zero_centered" else {}
    given |= {"residual": residual} if name == "residual" else {}
    function = wf.layer_norm if centered else wf.rms_norm
    y, *further = function(x, return_stats=True, device=device, **given)
    expected, mean, rstd = reference.norm(x, centered=centered, **given)
    np.testing.assert_allclose(y, expected, atol=3e-6, rtol=3e-6)
    if name == "residual":
        np.testing.assert_array_equal(further.pop(0), x + residual)
    if centered:
        np.testing.assert_allclose(further.pop(0), mean, atol=1e-6)
    np.testing.assert_allclose(further.pop(0), rstd, rtol=1e-6)
    assert not further
    if name != "residual":
        np.testing.assert_array_equal(function(x, device=device, **given), y)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("with_stats", [True, False])
def test_norm_backward(rng, device, kind, with_stats):
    x, weight, bias, dy, d_sum = (values(rng, *s) for s in ((4, 9), (9,), (9,), (4, 9), (4, 9)))
    centered = kind == "layer"

    def of(x, weight, bias):
        return reference.norm(x, weight, bias if centered else None, eps=1e-3, centered=centered)[0]

    expected = [
        reference.gradient(lambda x: of(x, weight, bias), x, dy) + d_sum,
        reference.gradient(lambda w: of(x, w, bias), weight, dy),
        reference.gradient(lambda b: of(x, weight, b), bias, dy),
    ]
    if centered:
        _, *stats = wf.layer_norm(x, weight, bias, 1e-3, return_stats=True)
    else:
        _, *stats = wf.rms_norm(x, weight, 1e-3, return_stats=True)
    function = wf.layer_norm_backward if centered else wf.rms_norm_backward
    given = stats if with_stats else []
    gradients = function(dy, x, weight, *given, eps=1e-3, d_residual=d_sum, device=device)
    assert len(gradients) == (3 if centered else 2)
    for gradient, theirs in zip(gradients, expected):
        np.testing.assert_allclose(gradient, theirs, atol=5e-5, rtol=1e-5)


def test_norm_without_weight_has_no_gradient_of_one(rng):
    x = values(rng, 4, 9)
    dx, dw, db = wf.layer_norm_backward(x, x)
    assert dx.shape == x.shape and dw is None and db is None
    dx, dw, db = wf.layer_norm_backward(x, x, bias=np.zeros(9, np.float16))
    assert dw is None and db.dtype == np.float16
    np.testing.assert_allclose(db, x.sum(0), rtol=2e-3)


def test_norm_with_dropout(rng, device):
    x, residual = values(rng, 6, 33), values(rng, 6, 33)
    given = {"dropout": 0.5, "seed": 3, "offset": 1}
    y, s, mean, rstd = wf.layer_norm(x, residual=residual, return_stats=True, device=device, **given)
    kept = ~np.isclose(s, residual)
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(s, np.where(kept, 2 * x, 0) + residual, atol=1e-6)
    np.testing.assert_allclose(y, reference.norm(s)[0], atol=3e-6)
    # Without a residual there is still the sum, which the backward pass needs.
    y, s = wf.rms_norm(x, device=device, **given)
    np.testing.assert_allclose(s, np.where(kept, 2 * x, 0), atol=1e-6)

    dy = values(rng, 6, 33)
    dx, d_residual, dw, db = wf.layer_norm_backward(dy, s, None, None, None, device=device, **given)
    assert dw is None and db is None
    np.testing.assert_allclose(dx, np.where(kept, 2 * d_residual, 0), atol=1e-6)
    np.testing.assert_allclose(d_residual, wf.layer_norm_backward(dy, s)[0], atol=1e-6)


def test_mixed_types(rng, device):
    x, residual = values(rng, 4, 33, dtype=np.float16), values(rng, 4, 33)
    y, s = wf.rms_norm(x, np.ones(33, np.float32), residual=residual, device=device)
    assert y.dtype == np.float16 and s.dtype == np.float32
    np.testing.assert_allclose(y, reference.norm(s, eps=1e-6, centered=False)[0], atol=2e-3)
    dx, d_residual, dw = wf.rms_norm_backward(y, s, np.ones(33, np.float32), device=device)
    assert dx.dtype == np.float16 and d_residual.dtype == np.float32 and dw.dtype == np.float32
    np.testing.assert_allclose(dx, d_residual, atol=2e-3)
