"""Programs in docs/examples."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.mark.filterwarnings("ignore")  # of Lightning's own making
def test_lightning():
    pytest.importorskip("lightning", reason="lightning is not installed")
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / "lightning_digits.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(epochs=3, channels=8, T=4) > 0.85
