"""Pictures: what is drawn is what was given."""

import pytest
import torch

mpl = pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
mpl.use("Agg")

from spikeloom import plot  # noqa: E402  # after the backend is chosen


@pytest.fixture(autouse=True)
def _close():
    yield
    mpl.pyplot.close("all")


def test_raster_shows_every_spike():
    spikes = torch.zeros(5, 2, 3)
    spikes[1, 0, 2] = spikes[4, 1, 1] = 1
    ax = plot.raster(spikes, title="layer")
    shown = torch.as_tensor(ax.images[0].get_array())
    assert shown.shape == (6, 5)
    assert shown.nonzero().tolist() == [[2, 1], [4, 4]]
    assert ax.get_title(loc="left") == "layer"


def test_raster_says_that_it_thins():
    ax = plot.raster(torch.ones(3, 1000), max_neurons=50)
    assert ax.images[0].get_array().shape == (50, 3)
    assert ax.get_title(loc="left") == " (50 of 1,000 neurons)"


def test_traces_draw_one_line_a_neuron():
    v = torch.rand(6, 4)
    ax = plot.traces(v, highlight=2, v_threshold=1.0, labels=["a", "b", "c", "d"])
    lines = ax.get_lines()
    assert len(lines) == 5
    assert lines[3].get_ydata().tolist() == v[:, 3].tolist()
    assert lines[2].get_linewidth() > lines[1].get_linewidth()


def test_bars_and_curves():
    ax = plot.firing_rates({"one": 0.1, "two": 0.4})
    assert [p.get_width() for p in ax.patches] == [0.1, 0.4]
    history = [{"epoch": 1, "loss": 2.0, "test_accuracy": 0.5}, {"epoch": 2, "loss": 1.0, "test_accuracy": 0.75}]
    ax = plot.curves(history)
    assert list(ax.get_lines()[0].get_ydata()) == [2.0, 1.0]
    right = next(a for a in ax.figure.axes if a is not ax)
    assert list(right.get_lines()[0].get_ydata()) == [50.0, 75.0]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"one sample, \[T, \*\]"):
        plot.raster(torch.ones(3))
    with pytest.raises(ValueError, match=r"one sample, \[T, N\]"):
        plot.traces(torch.ones(3, 2, 2))
