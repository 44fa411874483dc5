"""The environment in which a run was made: versions, processor, threads, git."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("spikeloom", "torch", "numpy", "triton", "scikit-learn", "safetensors", "matplotlib", "typer", "rich")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that are installed.

    >>> import spikeloom as sl
    >>> sl.runs.versions()["spikeloom"] == sl.__version__
    True
    """
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The name of the processor.

    >>> import spikeloom as sl
    >>> bool(sl.runs.processor())  # such as "AMD EPYC 9V74 80-Core Processor"
    True
    """
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, Any]:
    """Everything about the machine and the code that a result may depend on."""
    found: dict[str, Any] = {
        "command": sys.argv,
        "versions": versions(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "git": {"run from": git(Path.cwd()), "spikeloom": git(Path(__file__).parent)},
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def git(folder: Path) -> dict[str, Any] | None:
    """The commit and the changes of the repository that holds a folder; None without a repository or without git."""
    if shutil.which("git") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.strip(), "changed": (_git(folder, "status", "--porcelain") or "").splitlines()}


def commit() -> str:
    """The commit of the code that runs, with ``+`` where the code was changed since, or else the version.

    >>> import spikeloom as sl
    >>> found = sl.runs.commit()
    >>> len(found.rstrip("+")) == 40 or found.startswith("version")
    True
    """
    found = git(Path(__file__).parent)
    return f"version {versions().get('spikeloom')}" if found is None else found["commit"] + "+" * bool(found["changed"])


def git_diff(folder: Path) -> str:
    """The changes since the commit, as a patch; empty if there are none."""
    return (_git(folder, "diff", "HEAD") if shutil.which("git") else None) or ""


def _git(folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
