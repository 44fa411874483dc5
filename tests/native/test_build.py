"""Compilers as they are elsewhere: one without OpenMP, as macOS has it, and none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spikeloom.native import build

CODE = """
import torch
import spikeloom as sl
from spikeloom.native import build
with sl.backend("c"):
    y, state = sl.LIF(tau=2.0, decay_input=False, v_threshold=9.0).sequence(torch.ones(3, 1, 70000))
print(state["v"].unique().tolist(), "openmp" in build.facts()["flags"])
"""


WRAPPER = """#!/bin/sh
for word in "$@"; do
  case $word in -fopenmp) echo "unsupported option '-fopenmp'" >&2; exit 1;; esac
done
exec {} "$@"
"""


@pytest.mark.skipif(build.compiler() is None, reason="no C compiler")
def test_a_compiler_that_knows_no_openmp(tmp_path):
    """Kernels are built without threads: 1 + 1/2 + 1/4 after three steps of 1 that decay by half."""
    fake = tmp_path / "cc"
    fake.write_text(WRAPPER.format(build.compiler()))
    fake.chmod(0o755)
    env = {**os.environ, "CC": str(fake), "SPIKELOOM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "[1.75] False"), done.stderr


@pytest.mark.parametrize(
    ("system", "command"), [("linux", "apt install gcc"), ("darwin", "xcode-select --install"), ("win32", "MinGW-w64")]
)
def test_where_there_is_no_compiler_the_message_says_how_to_get_one(system, command, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "_toolchain", build._toolchain.__wrapped__)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(
        build.BuildError, match=rf"no C compiler \(cc, gcc or clang\) was found; install one: .*{command}"
    ):
        build._toolchain()
    monkeypatch.setenv("CC", str(Path("/nowhere/cc")))
    with pytest.raises(build.BuildError, match=r"no C compiler \(CC is /nowhere/cc\) was found$"):
        build._toolchain()
