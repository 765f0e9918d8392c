"""PyTorch: tensors through the plain functions, and warpfold.torch against PyTorch's own operators in float64."""

import doctest
import itertools
import shutil
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

import warpfold as wf  # noqa: E402
import warpfold.torch as wft  # noqa: E402

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def place(request):
    torch.manual_seed(5)
    return request.param


def normal(place, *shape, dtype=torch.float32, grad=False):
    return (torch.randn(shape, device=place) * 0.7 + 0.2).to(dtype).requires_grad_(grad)


def leaves(*tensors, dtype=torch.float64):
    return [tensor.detach().to(dtype).requires_grad_(tensor.requires_grad) for tensor in tensors]


def close(ours, theirs, tolerance=3e-6):
    torch.testing.assert_close(ours.double(), theirs.double(), atol=tolerance, rtol=tolerance, check_device=False)


# The plain functions ----------------------------------------------------------------------------------------------------------


def test_large_results_in_new_memory_hold_every_row(place):
    x, weight = normal(place, 3001, 1031), normal(place, 1031)
    for _ in range(2):
        out = wf.layer_norm(x, weight, eps=1e-5)
        close(out, F.layer_norm(x.double(), (1031,), weight.double(), None, 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_back_as_tensors(place, dtype):
    q = normal(place, 2, 4, 16, 64, dtype=dtype)
    out, lse = wf.attention(q, q, q, causal=True, return_lse=True)
    assert isinstance(out, torch.Tensor) and out.dtype == dtype and out.device == q.device
    expected = F.scaled_dot_product_attention(q.double(), q.double(), q.double(), is_causal=True)
    close(out, expected, {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype])
    given = torch.empty_like(q)
    assert wf.attention(q, q, q, causal=True, out=given) is given
    assert torch.equal(given, out)
    assert torch.equal(wf.softmax(q, device=q.device), wf.softmax(q))


def test_memory_is_not_copied(place):
    packed = normal(place, 2, 16, 3, 4, 32)
    q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    out = wf.attention(q, k, v)
    assert out.transpose(1, 2).is_contiguous()
    close(out, F.scaled_dot_product_attention(q.double(), k.double(), v.double()))
    x = normal(place, 4, 16)
    address = x.data_ptr()
    assert wf.softmax(x, out=x).data_ptr() == address


def test_tensors_that_require_grad_are_refused(place):
    x = normal(place, 2, 16, grad=True)
    with pytest.raises(TypeError, match=r"x requires grad.*warpfold\.torch.*x\.detach\(\)"):
        wf.softmax(x)
    with pytest.raises(TypeError, match="weight requires grad"):
        wf.layer_norm(x.detach(), torch.nn.Parameter(torch.ones(16, device=place)))
    close(wf.softmax(x.detach()), x.double().softmax(-1))


def test_negated_views_are_refused():
    x = torch.randn(2, 4, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    with pytest.raises(ValueError, match="resolve_neg"):
        wf.softmax(x)


def test_kinds_and_devices_may_mix_as_far_as_memory_is_one():
    x = torch.randn(2, 16)
    y = wf.layer_norm(x, np.ones(16, np.float32))
    assert isinstance(y, torch.Tensor)
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match="k is on cpu, but the call runs on cuda:0"):
            wf.attention(torch.ones(1, 1, 4, 16, device="cuda"), torch.ones(1, 1, 4, 16), torch.ones(1, 1, 4, 16))
        with pytest.raises(ValueError, match='x is on cuda:0, so that the call cannot run on "cpu"'):
            wf.softmax(x.cuda(), device="cpu")
    meta = torch.empty(2, 16, device="meta")
    with pytest.raises((ValueError, TypeError, RuntimeError), match="x"):
        wf.softmax(meta)


# Attention with gradients -----------------------------------------------------------------------------------------------------


def in_float64(q, k, v, *, causal=False, window=(None, None), scale=None, softcap=None, alibi_slopes=None, bias=None, mask=None, sinks=None):
    """Output and lse by PyTorch's own operators."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    s = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    s = s if softcap is None else softcap * torch.tanh(s / softcap)
    distance = torch.arange(k.shape[2])[None] - (torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2])
    distance = distance.to(q.device)
    s = s if bias is None else s + bias
    s = s if alibi_slopes is None else s - alibi_slopes.double().view(-1, 1, 1) * distance.abs()
    seen = torch.ones_like(distance, dtype=torch.bool)
    seen &= distance <= 0 if causal else seen
    seen &= distance >= -window[0] if window[0] is not None else seen
    seen &= distance <= window[1] if window[1] is not None else seen
    seen = seen if mask is None else seen & mask
    s = s.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        s = torch.cat([s, sinks.view(1, -1, 1, 1).expand(*s.shape[:3], 1)], -1)
    weights = s.softmax(-1)[..., : k.shape[2]]
    return weights @ v, s.logsumexp(-1)


def attention_cases(place):
    mask = torch.rand(2, 1, 9, 14, device=place) < 0.7
    mask[..., 0] = True
    return {
        "plain": {},
        "causal": {"causal": True},
        "window": {"window": (3, 1)},
        "softcap": {"softcap": 2.0, "scale": 0.4},
        "mask": {"mask": mask},
        "alibi": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.0], device=place)},
        "bias": {"bias": normal(place, 4, 1, 14, grad=True)},
        "frozen bias": {"bias": normal(place, 4, 1, 14)},
        "sinks": {"sinks": normal(place, 4, grad=True), "causal": True},
    }


@pytest.mark.parametrize("name", attention_cases("cpu"))
@pytest.mark.parametrize("through", ["output", "lse", "both"])
def test_gradients_of_attention(place, name, through):
    options = attention_cases(place)[name]
    q, k, v = normal(place, 2, 4, 9, 16, grad=True), normal(place, 2, 2, 14, 16, grad=True), normal(place, 2, 2, 14, 16, grad=True)
    ours = wft.attention(q, k, v, return_lse=True, **options)
    tensors = {key: value for key, value in options.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    wide = {**options, **dict(zip(tensors, leaves(*tensors.values())))}
    wide_qkv = leaves(q, k, v)
    theirs = in_float64(*wide_qkv, **wide)
    for a, b in zip(ours, theirs):
        close(a, b)
    chosen = {"output": [0], "lse": [1], "both": [0, 1]}[through]
    weights = [normal(place, *x.shape) for x in ours]
    sum((ours[i] * weights[i]).sum() for i in chosen).backward()
    sum((theirs[i] * weights[i]).sum() for i in chosen).backward()
    for a, b in zip([q, k, v, *tensors.values()], [*wide_qkv, *(wide[key] for key in tensors)]):
        assert (a.grad is not None) == a.requires_grad
        if a.requires_grad:
            # What lse does not depend on has no gradient in PyTorch and a gradient of zeros here.
            close(a.grad, torch.zeros_like(b) if b.grad is None else b.grad, 2e-5)


def test_gradcheck():
    torch.manual_seed(1)
    q = torch.randn(1, 2, 3, 8, requires_grad=True)
    k, v = torch.randn(1, 1, 4, 8, requires_grad=True), torch.randn(1, 1, 4, 8, requires_grad=True)
    tolerances = {"eps": 1e-2, "atol": 2e-3, "rtol": 1e-2, "nondet_tol": 0.0}
    # float32 is what there is; the tolerances allow for it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*double precision.*")
        torch.autograd.gradcheck(lambda *x: wft.attention(*x, causal=True), (q, k, v), **tolerances)
        x, w, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
        torch.autograd.gradcheck(wft.layer_norm, (x, w, b), **tolerances)
        torch.autograd.gradcheck(wft.rms_norm, (x, w), **tolerances)
        torch.autograd.gradcheck(wft.softmax, (x,), **tolerances)
        torch.autograd.gradcheck(lambda x: wft.softmax(x, log=True, scale=0.5), (x,), **tolerances)


def test_gradients_of_packed_sequences(place):
    starts = [0, 3, 3, 11]
    x = normal(place, 11, 2, 16, grad=True)
    out, lse = wft.attention_varlen(x, x, x, starts, starts, causal=True, return_lse=True)
    assert lse.shape == (2, 11)
    (wide,) = leaves(x)
    parts = [wide[a:b].transpose(0, 1)[None] for a, b in itertools.pairwise(starts)]
    theirs = torch.cat([in_float64(p, p, p, causal=True)[0][0].transpose(0, 1) for p in parts])
    close(out, theirs)
    weights = normal(place, *out.shape)
    (out * weights).sum().backward()
    (theirs * weights).sum().backward()
    close(x.grad, wide.grad, 1e-5)


def test_dropout_has_the_same_mask_backward(place):
    q, k, v = normal(place, 1, 2, 32, 16), normal(place, 1, 2, 32, 16), normal(place, 1, 2, 32, 16, grad=True)
    torch.manual_seed(3)
    out = wft.attention(q, k, v, dropout=0.5)
    torch.manual_seed(3)
    assert torch.equal(out, wft.attention(q, k, v, dropout=0.5))
    assert not torch.equal(out, wft.attention(q, k, v, dropout=0.5))
    weights = normal(place, *out.shape)
    (out * weights).sum().backward()
    # The output is linear in v.
    close((v.grad * v).sum(), (out * weights).sum(), 1e-4)


def test_second_derivatives_say_that_they_are_not_there():
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(wft.attention(q, q, q).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


# PyTorch's and flash-attn's signatures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("len_q", "len_kv"), [(9, 9), (5, 12), (12, 5), (1, 7)])
@pytest.mark.parametrize("case", ["plain", "causal", "bool", "float", "float one"])
def test_scaled_dot_product_attention(place, len_q, len_kv, case):
    q, k, v = normal(place, 2, 4, len_q, 16, grad=True), normal(place, 2, 4, len_kv, 16, grad=True), normal(place, 2, 4, len_kv, 8, grad=True)
    mask = {
        "bool": torch.rand(len_q, len_kv, device=place) < 0.8,
        "float": normal(place, 4, len_q, len_kv, grad=True),
        "float one": normal(place, 2, 1, len_q, 1, grad=True),
    }.get(case)
    if case == "bool":
        mask[:, 0] = True
    ours = wft.scaled_dot_product_attention(q, k, v, mask, is_causal=case == "causal")
    wide = leaves(q, k, v)
    wide_mask = mask if mask is None or mask.dtype == torch.bool else leaves(mask)[0]
    theirs = F.scaled_dot_product_attention(*wide, wide_mask, is_causal=case == "causal")
    close(ours, theirs)
    weights = normal(place, *ours.shape)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for a, b in zip((q, k, v), wide):
        close(a.grad, b.grad, 2e-5)
    if wide_mask is not mask:
        close(mask.grad, wide_mask.grad, 2e-5)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3, 4)])
def test_scaled_dot_product_attention_of_other_ranks(leading):
    q, k = torch.randn(*leading, 7, 16), torch.randn(*leading, 5, 16)
    mask = torch.rand(*leading, 7, 5) < 0.8
    mask[..., 0] = True
    ours = wft.scaled_dot_product_attention(q, k, k, mask, scale=0.5)
    close(ours, F.scaled_dot_product_attention(q, k, k, mask, scale=0.5))


def test_scaled_dot_product_attention_refuses_what_pytorch_refuses():
    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    with pytest.raises(ValueError, match="query has 4 heads and key 2; pass enable_gqa=True"):
        wft.scaled_dot_product_attention(q, k, k)
    ours = wft.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    close(ours, F.scaled_dot_product_attention(q, k, k, enable_gqa=True))
    with pytest.raises(ValueError, match="attn_mask and is_causal are both given"):
        wft.scaled_dot_product_attention(q, q, q, torch.ones(3, 3, dtype=torch.bool), is_causal=True)
    with pytest.raises(ValueError, match="does not broadcast"):
        wft.scaled_dot_product_attention(q, q, q, torch.ones(1, 1, 1, 3, 3, dtype=torch.bool))


def test_flash_attn_func(place):
    q, k = normal(place, 2, 9, 4, 16, grad=True), normal(place, 2, 14, 2, 16, grad=True)
    options = {"causal": True, "window_size": (4, -1), "softcap": 3.0, "softmax_scale": 0.3}
    out, lse, nothing = wft.flash_attn_func(q, k, k, return_attn_probs=True, **options)
    assert nothing is None and out.shape == q.shape and out.is_contiguous()
    wide_q, wide_k = leaves(q, k)
    given = (x.transpose(1, 2) for x in (wide_q, wide_k, wide_k))
    theirs, theirs_lse = in_float64(*given, causal=True, window=(4, None), softcap=3.0, scale=0.3)
    close(out, theirs.transpose(1, 2))
    close(lse, theirs_lse)
    out.sum().backward()
    theirs.sum().backward()
    close(q.grad, wide_q.grad, 2e-5)
    close(k.grad, wide_k.grad, 2e-5)
    assert torch.equal(wft.flash_attn_func(q, k, k, **options), out)


def test_flash_attn_varlen_func(place):
    x = normal(place, 11, 2, 16)
    starts = torch.tensor([0, 3, 11], dtype=torch.int32, device=place)
    out = wft.flash_attn_varlen_func(x, x, x, starts, starts, 8, 8, causal=True)
    assert torch.equal(out, wft.attention_varlen(x, x, x, [0, 3, 11], [0, 3, 11], causal=True))
    with pytest.raises(NotImplementedError, match="block_table"):
        wft.flash_attn_varlen_func(x, x, x, starts, starts, block_table=starts)


# Rows ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_gradients_of_softmax(place, log):
    x, bias = normal(place, 3, 5, 17, grad=True), normal(place, 5, 17, grad=True)
    mask = torch.arange(17, device=place) % 4 > 0
    ours = wft.softmax(x, scale=0.6, bias=bias, mask=mask, log=log)
    wide, wide_bias = leaves(x, bias)
    scores = (0.6 * wide + wide_bias).masked_fill(~mask, float("-inf"))
    theirs = scores.log_softmax(-1) if log else scores.softmax(-1)
    close(ours, theirs)
    weights = torch.where(mask, normal(place, *x.shape), torch.zeros(()).to(place))
    (ours.masked_fill(~mask, 0.0) * weights).sum().backward()
    (theirs.masked_fill(~mask, 0.0) * weights).sum().backward()
    close(x.grad, wide.grad, 1e-5)
    close(bias.grad, wide_bias.grad, 1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("through", ["y", "s", "both"])
def test_gradients_of_norms(place, kind, with_residual, through):
    x, residual = normal(place, 4, 6, 33, grad=True), normal(place, 4, 6, 33, grad=True)
    weight, bias = normal(place, 33, grad=True), normal(place, 33, grad=True)
    wide, wide_residual, wide_weight, wide_bias = leaves(x, residual, weight, bias)
    residuals = {"residual": residual} if with_residual else {}
    total = wide + wide_residual if with_residual else wide
    if kind == "layer":
        ours = wft.layer_norm(x, weight, bias, **residuals)
        theirs = F.layer_norm(total, (33,), wide_weight, wide_bias)
    else:
        ours = wft.rms_norm(x, weight, **residuals)
        theirs = F.rms_norm(total, (33,), wide_weight, 1e-6)
    if not with_residual:
        ours = (ours, x * 1.0)
    weights = [normal(place, *x.shape) * (through in (name, "both")) for name in ("y", "s")]
    (sum((a * b).sum() for a, b in zip(ours, weights) if b.any())).backward()
    (sum((a * b).sum() for a, b in zip((theirs, total), weights) if b.any())).backward()
    close(ours[0], theirs)
    used = [(x, wide), *([(residual, wide_residual)] if with_residual else [])]
    if through != "s":
        used += [(weight, wide_weight), *([(bias, wide_bias)] if kind == "layer" else [])]
    for a, b in used:
        close(a.grad, b.grad, 2e-5)


def test_norm_of_mixed_types_and_dropout(place):
    x = normal(place, 6, 64, dtype=torch.bfloat16, grad=True)
    residual = normal(place, 6, 64, grad=True)
    weight = normal(place, 64, grad=True)
    y, s = wft.rms_norm(x, weight, residual=residual, dropout=0.5)
    assert y.dtype == torch.bfloat16 and s.dtype == torch.float32
    kept = (s - residual).abs() > 1e-6
    assert 0.2 < kept.float().mean() < 0.8
    y.float().sum().backward()
    wide, wide_weight = leaves(s, weight)
    wide.requires_grad_()
    F.rms_norm(wide, (64,), wide_weight, 1e-6).sum().backward()
    close(residual.grad, wide.grad, 1e-4)
    close(x.grad, torch.where(kept, 2 * wide.grad, 0.0), 2e-2)
    close(weight.grad, wide_weight.grad, 1e-3)


# Modules, torch.compile -----------------------------------------------------------------------------------------------------


def test_modules_take_pytorchs_parameters(place):
    x = normal(place, 3, 4, 6)
    for ours, theirs in [
        (wft.LayerNorm((4, 6)), torch.nn.LayerNorm((4, 6))),
        (wft.LayerNorm(6, bias=False), torch.nn.LayerNorm(6, bias=False)),
        (wft.LayerNorm(6, elementwise_affine=False), torch.nn.LayerNorm(6, elementwise_affine=False)),
        (wft.RMSNorm(6), torch.nn.RMSNorm(6)),
        (wft.RMSNorm((4, 6), eps=1e-3), torch.nn.RMSNorm((4, 6), eps=1e-3)),
        (wft.Softmax(), torch.nn.Softmax(-1)),
    ]:
        ours, theirs = ours.to(place), theirs.to(place)
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter)
        ours.load_state_dict(theirs.state_dict())
        close(ours(x), theirs(x))
    with pytest.raises(ValueError, match=r"x has shape \[3, 4, 6\]; \[..., 5\]"):
        wft.LayerNorm(5)(torch.zeros(3, 4, 6))
    with pytest.raises(ValueError, match="dim is 0"):
        wft.Softmax(0)
    layer = wft.Attention(causal=True, dropout=0.5).to(place)
    q = normal(place, 1, 2, 8, 16)
    assert not torch.equal(layer(q, q, q), layer(q, q, q))
    layer.eval()
    close(layer(q, q, q), F.scaled_dot_product_attention(q, q, q, is_causal=True))
    assert "causal=True" in repr(layer)


def test_operators_pass_pytorchs_own_checks():
    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    packed = torch.randn(2, 5, 3, 2, 8, requires_grad=True)
    heads = [packed[:, :, i].transpose(1, 2) for i in range(3)]
    options = (None,) * 7 + (True, None, None, None, None, 0.0)
    torch.library.opcheck(torch.ops.warpfold.attention, (q, q, q, *options))
    torch.library.opcheck(torch.ops.warpfold.attention, (*heads, *options))
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    torch.library.opcheck(torch.ops.warpfold.softmax, (x, None, None, 1.0, False, None, None, False))
    torch.library.opcheck(torch.ops.warpfold.norm, (x, weight, weight, x, 1e-5, True, False, 0.0))
    torch.library.opcheck(torch.ops.warpfold.norm, (x, weight, None, None, 1e-5, False, False, 0.0))


class Block(torch.nn.Module):
    """A layer of a transformer with everything in it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = wft.LayerNorm(32), wft.RMSNorm(32)
        self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)

    def forward(self, x):
        q, k, v = self.qkv(self.first(x)).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        heads = wft.scaled_dot_product_attention(q, k, v, is_causal=True)
        y, s = wft.layer_norm(self.out(heads.transpose(1, 2).flatten(-2)), residual=x)
        return wft.softmax(self.second(y) + s)


def attend(x):
    heads = x.view(2, 6, 4, 8).transpose(1, 2)
    return wft.layer_norm(wft.attention(heads, heads, heads, causal=True))


@pytest.mark.parametrize(("function", "backend"), [(Block, "aot_eager"), (attend, "inductor")])
def test_compile_has_no_graph_break(place, function, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler for PyTorch's inductor")
    function = function().to(place) if function is Block else function
    x = normal(place, 2, 6, 32, grad=True)
    expected = function(x)
    expected.square().sum().backward()
    gradient = x.grad.clone()
    x.grad = None
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    ours = compiled(x)
    close(ours, expected, 1e-5)
    ours.square().sum().backward()
    close(x.grad, gradient, 1e-5)


def test_compile_takes_sizes_that_change_and_flash_attns_functions(place):
    def attend(q, k):
        return wft.scaled_dot_product_attention(q, k, k, is_causal=True)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=True)
    for len_q, len_kv in [(5, 5), (7, 3), (3, 9)]:
        q, k = normal(place, 1, 2, len_q, 8, grad=True), normal(place, 1, 2, len_kv, 8)
        ours = compiled(q, k)
        close(ours, F.scaled_dot_product_attention(q, k, k, is_causal=True))
        ours.sum().backward()

    def flash(q, starts):
        padded = wft.flash_attn_func(q[None], q[None], q[None], causal=True, window_size=(3, -1))
        return padded[0] + wft.flash_attn_varlen_func(q, q, q, starts, starts, causal=True)

    q, starts = normal(place, 6, 2, 8, grad=True), torch.tensor([0, 2, 6], device=place)
    compiled = torch.compile(flash, fullgraph=True, backend="aot_eager")
    close(compiled(q, starts), flash(q, starts))
    compiled(q, starts).sum().backward()


def test_examples_of_the_documentation():
    result = doctest.testmod(wft, extraglobs={"torch": torch, "wft": wft})
    assert result.attempted > 20 and result.failed == 0
