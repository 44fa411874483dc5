"""Shared by all tests: seeds, helpers that compare, the golden files."""

import ast
import contextlib
import importlib.util
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import spikeloom as sl

REFERENCE = Path(__file__).parent / "reference"
# Kernels compiled by tests stay in the clone, and out of the user's cache.
os.environ.setdefault("SPIKELOOM_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels"))
# Without a GPU, kernels in Triton are tested in its interpreter, which is chosen when triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def notes(stats):
    """What tests that passed have to say, each by ``record_property("note", ...)``."""
    reports = (report for report in stats.get("passed", []) if getattr(report, "user_properties", None))
    return [text for report in reports for name, text in report.user_properties if name == "note"]


@pytest.hookimpl(wrapper=True, tryfirst=True)  # below the list of what was skipped
def pytest_terminal_summary(terminalreporter):
    """Shows the notes of tests, and says in one line what the tests that need real data sets wait for."""
    shown = yield
    for note in notes(terminalreporter.stats):
        terminalreporter.write_line(f"NOTE {note}", yellow=True)
    skipped = terminalreporter.stats.get("skipped", [])
    waiting = sum("SPIKELOOM_DATA" in str(report.longrepr) for report in skipped)
    if waiting:
        terminalreporter.write_line(
            f"{waiting} tests of real data were skipped: set SPIKELOOM_DATA=<folder with the data sets> to run them "
            "(docs/data.md says which, and `spikeloom data fetch` gets some)"
        )
    return shown


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden():
    """Reads a golden file once: peer -> {name: tensor}."""
    files = {}

    def read(peer):
        if peer not in files:
            with np.load(REFERENCE / f"{peer}.npz") as data:
                files[peer] = {k: torch.from_numpy(data[k]) for k in data.files if data[k].dtype.kind in "fiu"}
        return files[peer]

    return read


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


OPTIONAL = {"onnxruntime"}
"""What pages show and a development environment may lack."""


def _imported(code):
    """The modules that a block imports by name."""
    return {name.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for name in node.names}


@pytest.fixture(scope="session")
def run_blocks():
    """Runs the python blocks of a page in one namespace; a text block after one has to be its output.

    It yields the code of each block that has run, and the namespace.
    """

    def run(file):
        text, namespace, printed = file.read_text(), {"__name__": "__main__"}, None
        for block in FENCE.finditer(text):
            language, code = block.groups()
            if language == "python":
                missing = [name for name in _imported(code) & OPTIONAL if importlib.util.find_spec(name) is None]
                if missing:  # such a block is the last of its page's kind: those after it build on it
                    pytest.skip(f"{file.name} ran up to the block that needs {', '.join(missing)}, not installed")
                line = text[: block.start(2)].count("\n")
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    exec(compile("\n" * line + code, str(file), "exec"), namespace)
                printed = output.getvalue()
                yield code, namespace
            elif language == "text":
                assert printed is not None, "a text block without a python block before it"
                assert printed.strip() == code.strip()
                printed = None

    return run


@pytest.fixture
def conv_net():
    """conv - batch norm - LIF - pool - flatten - linear - LIF on [T, B, 1, 8, 8]."""
    nn = torch.nn
    return sl.Network(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        sl.LIF(v_threshold=0.3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
        sl.LIF(v_threshold=0.1),
    )
