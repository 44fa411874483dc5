"""The package itself: what an import does, the direction of imports, the public names."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import spikeloom as sl

SOURCE = Path(sl.__file__).parent

# A layer may import from those before it (design: imports point downwards only).
LAYERS = [
    {"_constants", "_epochs", "_extras", "_hooks", "_peers", "_text", "_time", "_tracing"},
    {"_targets", "keys"},
    {"_numbers"},
    {"surrogate", "encode"},
    {"decode"},
    {"loss", "metrics"},
    {"native"},
    {"core"},
    {"kernel"},
    {"spikes"},
    {"neuron"},
    {"nn", "options"},
    {"learn", "observe", "data"},
    {"models", "convert"},
    {"plot"},
    {"runs"},
    {"recipes"},
    {"cli", "__main__"},
]


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_import_prints_nothing_loads_little_and_probes_no_device():
    code = """
import torch, sys
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = None  # calling one would fail
before = set(sys.modules)
import spikeloom as sl
new = {m.split(".")[0] for m in set(sys.modules) - before}
assert new <= {"spikeloom", "hashlib", "_hashlib", "_blake2", "_sha2"} | sys.stdlib_module_names, new
models = {m.removeprefix("spikeloom.models.") for m in sys.modules if m.startswith("spikeloom.models.")}
assert models == {"authors", "blocks", "files", "registry", "stored"}, models
assert not hasattr(sys.modules["spikeloom"], "__path__") or "spikeloom.plot" not in sys.modules
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_plot_and_recipes_load_on_first_use():
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    done = run("import spikeloom as sl, sys; assert 'matplotlib' not in sys.modules; print(sl.plot.raster.__name__)")
    assert (done.returncode, done.stdout.strip()) == (0, "raster"), done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sl.nothing


def test_a_missing_extra_is_named():
    done = run("import sys; sys.modules['matplotlib'] = None\nimport spikeloom as sl; sl.plot")
    assert done.returncode == 1
    clone = SOURCE.parents[1]
    assert f"spikeloom.plot needs matplotlib; install the extra: pip install -e '{clone}[plot]'" in done.stderr


def test_the_remedy_is_that_of_the_release_outside_of_a_clone(monkeypatch, tmp_path):
    from spikeloom import _extras

    monkeypatch.setattr(_extras, "__file__", str(tmp_path / "lib" / "spikeloom" / "_extras.py"))
    assert _extras.install("plot") == "pip install 'spikeloom[plot]'"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody"\n')
    assert _extras.install("cli") == "pip install 'spikeloom[cli]'"


FILES = {file.relative_to(SOURCE).with_suffix("").parts: file for file in SOURCE.rglob("*.py")}


def imports(parts):
    """The files of this package that one of them imports, each as the parts of its path."""
    for node in ast.walk(ast.parse(FILES[parts].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*parts[: len(parts) - node.level], *(node.module.split(".") if node.module else ()))
            for name in node.names:
                for target in ((*base, name.name), (*base, name.name, "__init__"), base, (*base, "__init__")):
                    if target in FILES:
                        yield target
                        break


def test_imports_point_downwards_only():
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        f"{'/'.join(parts)} imports {'/'.join(target)}"
        for parts in FILES
        if parts[0] not in ("__init__", "__main__")
        for target in imports(parts)
        if target != ("__init__",) and target[0] != parts[0] and rank[target[0]] >= rank[parts[0]]
    ]
    assert not wrong
    assert {f.name.removesuffix(".py") for f in SOURCE.iterdir() if f.name not in ("__pycache__", "py.typed")} == {
        "__init__",
        *rank,
    }


def test_no_two_modules_import_each_other():
    """Not by way of others either, nor for types alone: what is above what can be read off the imports."""
    edges = {parts: set(imports(parts)) - {("__init__",)} for parts in FILES}

    def reached(parts):
        seen, todo = set(), [parts]
        while todo:
            for other in edges[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    assert {"/".join(parts) for parts in FILES if parts in reached(parts)} == set()


MOVED = ["MPBN", "SLTT", "Adaptive", "Graded", "HalfThreshold", "Noisy", "Option", "Refractory", "StateQuant"]


@pytest.mark.parametrize("name", MOVED)
def test_options_are_found_by_their_old_names_with_a_warning(name):
    with pytest.warns(DeprecationWarning, match=rf"sl\.{name} is sl\.options\.{name} now") as told:
        old = getattr(sl, name)
    assert old is getattr(sl.options, name)
    assert told[0].filename == __file__
    assert sl.options.__all__ == MOVED


def test_what_is_public_is_listed():
    listed = dir(sl)
    assert listed == sorted({*sl.__all__, "__version__"})
    assert not {*MOVED, "kernel", "core", "prepared"} & {*listed}
    assert {"LIF", "Neuron", "Dynamics", "Network", "options", "nn", "plot"} <= {*listed}


def test_pickles_name_what_they_named_before_options_moved():
    """Names of classes in a file that was pickled with version 0.1.0."""
    old = {
        "spikeloom.neuron.options": ["SLTT", "Adaptive", "Graded", "HalfThreshold", "Refractory", "StateQuant"],
        "spikeloom.neuron.noise": ["Noisy"],
        "spikeloom.neuron.mpbn": ["MPBN", "_AnyBatchNorm"],
        "spikeloom.neuron.lif": ["IF", "LIF"],
        "spikeloom.neuron.base": ["Neuron"],
    }
    for path, names in old.items():
        for name in names:
            assert getattr(importlib.import_module(path), name).__module__ == path


def test_every_public_name_has_a_docstring():
    shelves = (
        sl.options,
        sl.surrogate,
        sl.encode,
        sl.decode,
        sl.learn,
        sl.loss,
        sl.metrics,
        sl.models,
        sl.convert,
        sl.nn,
        sl.data,
        sl.runs,
        sl.plot,
    )
    for module in (sl, *shelves):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        for name in names:
            value = getattr(module, name)
            if callable(value) and getattr(value, "__module__", "").startswith("spikeloom"):
                assert value.__doc__, name


def test_version_is_that_of_the_metadata():
    from importlib.metadata import version

    assert sl.__version__ == version("spikeloom")
    citation = (SOURCE.parents[1] / "CITATION.cff").read_text()
    assert re.search(rf"^version: {re.escape(sl.__version__)}$", citation, re.MULTILINE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_as_on_the_cpu():
    net = sl.Network(torch.nn.Linear(5, 6), sl.LIF(v_threshold=0.2), torch.nn.Linear(6, 3), sl.PLIF(shape=3), sl.LI())
    x = torch.randn(6, 4, 5)
    wanted, state = net(x, return_state=True)
    net.cuda()
    got, other = net(x.cuda(), return_state=True)
    torch.testing.assert_close(got.cpu(), wanted, atol=1e-5, rtol=1e-5)
    assert other.state["1"]["v"].device.type == "cuda"
    with pytest.raises(ValueError, match="on cpu, but this input needs"):
        net(x.cuda(), state=state.state)
