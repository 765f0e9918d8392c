"""The package itself: documentation, types, what importing it does."""

import ast
import doctest
import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import warpfold as wf

FUNCTIONS = [name for name in wf.__all__ if callable(getattr(wf, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_of_the_documentation(name):
    examples = doctest.DocTestFinder().find(getattr(wf, name), name, globs={})
    assert examples and any(example.examples for example in examples), f"{name} has no example"
    runner = doctest.DocTestRunner()
    for example in examples:
        assert runner.run(example).failed == 0


def test_the_module_shows_an_example():
    assert doctest.testmod(wf).attempted > 0 and doctest.testmod(wf).failed == 0


def test_stubs_say_what_the_functions_take():
    folder = pathlib.Path(wf.__file__).parent
    assert (folder / "py.typed").exists()
    stubs = {node.name: node for node in ast.parse((folder / "_native.pyi").read_text()).body if isinstance(node, ast.FunctionDef)}
    for name in FUNCTIONS:
        arguments = stubs[name].args
        positional = [argument.arg for argument in arguments.args]
        keywords = [argument.arg for argument in arguments.kwonlyargs]
        parameters = inspect.signature(getattr(wf, name)).parameters.values()
        assert positional == [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD], name
        assert sorted(keywords) == sorted(p.name for p in parameters if p.kind is p.KEYWORD_ONLY), name
        given = [*zip(positional[::-1], arguments.defaults[::-1]), *zip(keywords, arguments.kw_defaults)]
        defaults = {key: ast.literal_eval(value) for key, value in given if value is not None}
        ours = {p.name: p.default for p in parameters if p.default is not p.empty}
        ours = {key: tuple(value) if isinstance(value, list) else value for key, value in ours.items()}
        defaults.pop("return_lse", None), ours.pop("return_lse", None)
        assert defaults == ours, name


def test_importing_it_does_not_import_pytorch():
    code = "import sys, warpfold, numpy; warpfold.softmax(numpy.ones((1, 4), 'f')); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_devices_and_kernels():
    assert wf.devices()[0] == "cpu"
    assert wf.__version__.count(".") == 2
    for kernel in wf.kernels():
        assert kernel["name"] and kernel["registers"] > 0
    emulated = [name for name in wf.devices() if name.startswith("emulator")]
    assert bool(emulated) == bool(wf.kernels()), "the emulators run the kernels that are in the package"
    with pytest.raises(ValueError):
        wf.softmax(np.ones((1, 4), np.float32), device="emulator:none")
