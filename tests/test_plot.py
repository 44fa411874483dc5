"""Pictures: what is drawn is what was given."""

import numpy as np
import pytest
import torch

mpl = pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
mpl.use("Agg")

import spikeloom as sl  # noqa: E402  # after the backend is chosen
from spikeloom import plot  # noqa: E402


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


def recording():
    t = np.arange(100) * 10
    return sl.data.events.as_recording({"t": t, "x": t // 10 % 7, "y": t // 10 % 5, "p": t // 10 % 2}, (5, 7))


def test_events_in_frames():
    axes = plot.events(recording(), panels=4, title="mine")
    assert len(axes) == 4
    picture = np.asarray(axes[0].images[0].get_array())  # events 0 to 24: dt = 990 // 4 = 247
    assert picture.shape == (5, 7, 3)
    counts = sl.data.to_frames(recording(), steps=4)[0]
    silent = (counts.sum(0) == 0).numpy()
    assert (picture[silent] == 1).all()  # white
    on_only = ((counts[1] > 0) & (counts[0] == 0)).numpy()
    assert (picture[on_only][:, 0] == 1).all()  # red stays
    assert (picture[on_only][:, 2] < 1).all()
    assert [ax.get_title() for ax in axes] == ["0.000 s", "0.000 s", "0.000 s", "0.001 s"]


def test_events_as_cloud_channels_and_film(tmp_path):
    (cloud,) = plot.events(recording(), kind="cloud")
    assert len(cloud.collections[0].get_offsets()) == 100
    (channels,) = plot.events(sl.data.events.make_events([0, 5, 9], [3, 1, 0], None, [1, 1, 1]))
    assert channels.collections[0].get_offsets()[:, 1].tolist() == [3, 1, 0]
    film = plot.animate(recording(), frames=3)
    film.save(tmp_path / "film.gif", writer="pillow")
    image = pytest.importorskip("PIL.Image")
    with image.open(tmp_path / "film.gif") as opened:
        assert opened.n_frames == 3
    empty = sl.data.Recording(recording().events[:0], (5, 7))
    assert len(plot.events(empty)) == 5
    with pytest.raises(ValueError, match='"frames" or "cloud"'):
        plot.events(recording(), kind="film")
    with pytest.raises(ValueError, match="needs the events of a camera"):
        plot.animate(sl.data.events.make_events([0], [3], None, [1]))
