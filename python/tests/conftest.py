"""Devices that the tests run on, and PyTorch where it is importable."""

import importlib.util

import numpy as np
import pytest

import warpfold as wf

HAS_TORCH = importlib.util.find_spec("torch") is not None


def pytest_report_header(config):
    return f"warpfold {wf.__version__} on {', '.join(wf.devices())}; PyTorch: {_torch_version()}"


def _torch_version():
    if not HAS_TORCH:
        return "not importable, so that the tests against it do not run"
    import torch

    return f"{torch.__version__}, GPUs: {torch.cuda.device_count()}"


def pytest_terminal_summary(terminalreporter):
    if not HAS_TORCH:
        terminalreporter.write_line("PyTorch is not importable: the tests against it did not run")


def _names():
    return ["cpu", *(name for name in wf.devices() if name.startswith("emulator"))]


@pytest.fixture(params=_names())
def device(request):
    """A device for arrays in host memory."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20)
