"""Programs in docs/examples."""

import importlib.util
from pathlib import Path

import pytest

import spikeloom as sl

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_config_files(file):
    """All settings exist, and so does the model."""
    values = sl.runs.read_file(file)
    recipe = sl.recipes.get(values.pop("recipe"))
    if values["model"] not in sl.models.names():
        pytest.skip(f"there is no model {values['model']} yet")
    config, machine = sl.runs.split(values, recipe.Config, sl.runs.Machine, where=str(file))
    assert recipe.Config(**config).epochs == values["epochs"]
    assert machine == {}


@pytest.mark.filterwarnings("ignore")  # of Lightning's own making
def test_lightning():
    pytest.importorskip("lightning", reason="lightning is not installed")
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / "lightning_digits.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(epochs=3, channels=8, T=4) > 0.85


def test_the_gallery_draws_every_neuron(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    spec = importlib.util.spec_from_file_location("gallery", EXAMPLES.parent / "gallery" / "draw.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    for name in sl.neurons().keys() - set(gallery.NETWORKS):
        assert isinstance(gallery.SAMPLES[name].make(), sl.TemporalModule)
    monkeypatch.setattr(gallery, "HERE", tmp_path)
    monkeypatch.setattr(sl, "neurons", lambda: {"LIF": "", "STBIF": ""})
    monkeypatch.setattr(sl, "surrogates", lambda: {"ATan": "", "Rect": ""})
    with sl.backend("eager"):
        gallery.neurons()
        gallery.surrogates()
    for file in ("neurons.png", "surrogates.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")
