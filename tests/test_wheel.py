"""The package as it is released: what is in it, and that it runs where there is no clone."""

import importlib.util
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import spikeloom as sl

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of the source archive, so that this is whole too."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("the package 'build' is not installed; the extra 'dev' has it")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (archive,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    assert archive.name == f"spikeloom-{sl.__version__}.tar.gz"
    assert wheel.name == f"spikeloom-{sl.__version__}-py3-none-any.whl"
    return wheel


def run(*command, **options):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=env, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_has_the_package_and_nothing_else(wheel):
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", "src/spikeloom", cwd=ROOT).split()
    assert found == {name.removeprefix("src/") for name in tracked}
    assert {"spikeloom/py.typed", "spikeloom/recipes/digits.py", "spikeloom/kernel/c/source.py"} <= found
    assert "spikeloom/models/weights/csnn_8x8/digits/model.safetensors" in found


def test_a_wheel_trains_in_an_environment_and_a_folder_of_its_own(wheel, tmp_path):
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    (here,) = (tmp_path / "env").glob("lib/*/site-packages")
    others = [folder for folder in sys.path if folder.endswith("-packages")]  # torch and the rest
    (here / "others.pth").write_text("\n".join(others))  # whose own .pth, as of editable installs, are not read

    work = tmp_path / "empty"
    work.mkdir()
    assert Path(run(python, "-c", "import spikeloom; print(spikeloom.__file__)", cwd=work).strip()).is_relative_to(here)
    command = [python.with_name("spikeloom"), "train", "digits", "--epochs", "2", "--channels", "8", "--T", "4"]
    run(*command, cwd=work)
    assert json.loads((work / "runs" / "digits" / "result.json").read_text())["test_accuracy"] > 0.6
