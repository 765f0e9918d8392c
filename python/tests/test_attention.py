"""Attention, on every device for host memory, against NumPy in float64."""

import numpy as np
import pytest
import reference

import warpfold as wf

TOLERANCE = {np.float32: 2e-6, np.float16: 2e-3}


def values(rng, *shape, dtype=np.float32):
    # Of non-zero mean, so that nothing cancels by itself.
    return (rng.standard_normal(shape) * 0.7 + 0.2).astype(dtype)


def qkv(rng, batch=2, heads=4, heads_kv=2, len_q=13, len_k=21, head_dim=16, head_dim_v=None, dtype=np.float32):
    q = values(rng, batch, heads, len_q, head_dim, dtype=dtype)
    k = values(rng, batch, heads_kv, len_k, head_dim, dtype=dtype)
    return q, k, values(rng, batch, heads_kv, len_k, head_dim_v or head_dim, dtype=dtype)


def close(ours, theirs, dtype=np.float32, factor=1.0):
    assert ours.dtype == dtype or dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.astype(np.float64), theirs, atol=factor * TOLERANCE[dtype], rtol=factor * TOLERANCE[dtype])


def options(rng, name):
    """One case a name, each for an option of its own, and one for many together."""
    mask = rng.random((2, 1, 13, 21)) < 0.7
    mask[0, 0, 3] = False
    slopes = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
    return {
        "plain": {},
        "causal": {"causal": True},
        "window": {"window": (5, 2)},
        "one-sided window": {"causal": True, "window": (4, None)},
        "scale": {"scale": 0.3},
        "softcap": {"softcap": 1.5},
        "bias": {"bias": values(rng, 4, 1, 21)},
        "mask": {"mask": mask},
        "mask of bytes": {"mask": mask[0, 0].astype(np.uint8)},
        "alibi": {"alibi_slopes": slopes},
        "alibi a sequence": {"alibi_slopes": np.stack([slopes, slopes[::-1]]).copy()},
        "sinks": {"sinks": values(rng, 4)},
        "key_lengths": {"key_lengths": [21, 7]},
        "no keys": {"key_lengths": np.array([0, 5])},
        "many": {
            "causal": True,
            "window": (9, None),
            "softcap": 3.0,
            "alibi_slopes": slopes,
            "bias": values(rng, 1, 4, 13, 21),
            "mask": mask,
            "sinks": values(rng, 4),
            "key_lengths": [20, 18],
        },
    }[name]


CASES = [
    "plain",
    "causal",
    "window",
    "one-sided window",
    "scale",
    "softcap",
    "bias",
    "mask",
    "mask of bytes",
    "alibi",
    "alibi a sequence",
    "sinks",
    "key_lengths",
    "no keys",
    "many",
]


@pytest.mark.parametrize("name", CASES)
def test_forward(rng, device, name):
    q, k, v = qkv(rng)
    given = options(rng, name)
    out, lse = wf.attention(q, k, v, return_lse=True, device=device, **given)
    expected, expected_lse = reference.attention(q, k, v, **given)
    close(out, expected)
    close(lse, expected_lse)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sizes", [{"head_dim": 64, "head_dim_v": 32}, {"heads_kv": 4, "len_q": 1}, {"heads_kv": 1, "len_k": 0}])
def test_shapes_and_types(rng, device, dtype, sizes):
    q, k, v = qkv(rng, dtype=dtype, **sizes)
    out = wf.attention(q, k, v, device=device)
    close(out, reference.attention(q, k, v)[0], dtype)
    assert out.dtype == dtype


@pytest.mark.parametrize("name", CASES)
def test_backward_agrees_with_differences(rng, device, name):
    given = options(rng, name)
    q, k, v = qkv(rng, head_dim=8)
    out, lse = wf.attention(q, k, v, return_lse=True, device=device, **given)
    d_out, d_lse = values(rng, *out.shape), values(rng, *lse.shape)
    d_lse[np.isinf(lse)] = 0.0
    gradients = wf.attention_backward(d_out, q, k, v, out, lse, d_lse=d_lse, device=device, **given)
    names = [name for name in ("bias", "sinks") if name in given]
    assert len(gradients) == 3 + len(names)

    # Along one random direction of all inputs at once: a difference that every gradient takes part in.
    inputs = [q, k, v, *(given[name] for name in names)]
    directions = [values(rng, *x.shape).astype(np.float64) for x in inputs]

    def loss(step):
        moved = [x.astype(np.float64) + step * direction for x, direction in zip(inputs, directions)]
        out, lse = reference.attention(*moved[:3], **{**given, **dict(zip(names, moved[3:]))})
        return (out * d_out).sum() + (np.where(np.isinf(lse), 0.0, lse) * d_lse).sum()

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    ours = sum((gradient.astype(np.float64) * direction).sum() for gradient, direction in zip(gradients, directions))
    assert abs(ours - expected) < 3e-4 * max(1.0, abs(expected)), (ours, expected)
    for gradient, x in zip(gradients, inputs):
        assert gradient.shape == x.shape and gradient.dtype == x.dtype
    again = wf.attention_backward(d_out, q, k, v, out, lse, d_lse=d_lse, device=device, **given)
    assert all((a == b).all() for a, b in zip(gradients, again)), "the same call gives the same bits"


def test_gradients_element_by_element(rng):
    q, k, v = qkv(rng, batch=1, heads=2, heads_kv=1, len_q=3, len_k=5, head_dim=4)
    out, lse = wf.attention(q, k, v, causal=True, return_lse=True)
    d_out = values(rng, *out.shape)
    gradients = wf.attention_backward(d_out, q, k, v, out, lse, causal=True)
    for index, gradient in enumerate(gradients):

        def moved(x, index=index):
            return reference.attention(*[x if i == index else y for i, y in enumerate((q, k, v))], causal=True)[0]

        np.testing.assert_allclose(gradient, reference.gradient(moved, (q, k, v)[index], d_out), atol=2e-5)


def test_varlen(rng, device):
    starts_q, starts_k = [0, 3, 3, 10], [0, 5, 9, 16]
    q, k, v = values(rng, 10, 4, 16), values(rng, 16, 2, 16), values(rng, 16, 2, 16)
    out, lse = wf.attention_varlen(q, k, v, starts_q, np.array(starts_k), causal=True, return_lse=True, device=device)
    expected, expected_lse = reference.packed(q, k, v, starts_q, starts_k, causal=True)
    close(out, expected)
    close(lse, expected_lse)

    d_out = values(rng, *out.shape)
    gradients = wf.attention_varlen_backward(d_out, q, k, v, out, lse, starts_q, starts_k, causal=True, device=device)
    for a, b, c, d in zip(starts_q, starts_q[1:], starts_k, starts_k[1:]):
        one = [x[s].swapaxes(0, 1)[None] for x, s in zip((d_out, q, k, v, out), [slice(a, b)] * 2 + [slice(c, d)] * 2 + [slice(a, b)])]
        if a == b:
            assert not gradients[1][c:d].any() and not gradients[2][c:d].any(), "nobody looks at these keys"
            continue
        alone = wf.attention_backward(*one, np.ascontiguousarray(lse[None, :, a:b]), causal=True, device=device)
        for gradient, expected, s in zip(gradients, alone, [slice(a, b), slice(c, d), slice(c, d)]):
            np.testing.assert_allclose(gradient[s], expected[0].swapaxes(0, 1), atol=1e-6)


@pytest.mark.parametrize("parts", [1, 3, 20, 33])
def test_states_merge_into_the_whole(rng, device, parts):
    q, k, v = qkv(rng, batch=1, len_k=40)
    cuts = np.linspace(0, 40, parts + 1).astype(int)
    states = [wf.attention(q, k[:, :, a:b], v[:, :, a:b], return_lse=True, device=device) for a, b in zip(cuts, cuts[1:])]
    out, lse = wf.merge_states(states, device=device)
    expected, expected_lse = reference.attention(q, k, v)
    close(out, expected)
    close(lse, expected_lse)


def test_states_of_16_bits_merge(rng):
    q, k, v = qkv(rng, dtype=np.float16)
    states = [wf.attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 9), slice(9, 21))]
    out, _ = wf.merge_states(states)
    assert out.dtype == np.float16
    close(out, reference.attention(q, k, v)[0], np.float16)
    with pytest.raises(ValueError, match="states is empty"):
        wf.merge_states([])


def test_dropout_is_the_same_on_every_device(rng):
    q, k, v = qkv(rng)
    k, v = (np.repeat(x, 2, axis=1) for x in (k, v))
    given = {"dropout": 0.4, "seed": 2**63 + 1, "offset": 7}
    # v of ones tells how much weight is kept.
    ones = np.ones_like(v)
    on_cpu = wf.attention(q, k, ones, **given)
    assert on_cpu.std() > 0.1
    for device in wf.devices():
        if not device.startswith("cuda"):
            np.testing.assert_allclose(wf.attention(q, k, ones, device=device, **given), on_cpu, atol=1e-6)
    assert (wf.attention(q, k, ones, **{**given, "offset": 8}) != on_cpu).any()
    assert (wf.attention(q, k, ones, **{**given, "dropout": 0.0}) != on_cpu).any()
    # Gradients go by the same mask: with scores that do not move, out is linear in v.
    out, lse = wf.attention(q, k, v, return_lse=True, **given)
    d_out = values(rng, *out.shape)
    _, _, d_v = wf.attention_backward(d_out, q, k, v, out, lse, **given)
    np.testing.assert_allclose((d_v * v).sum(), (d_out * out).sum(), rtol=1e-5)
