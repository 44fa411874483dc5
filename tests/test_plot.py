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
    assert [plot.traces(v, **given).get_ylabel() for given in ({}, {"ylabel": "u"})] == ["v", "u"]


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


SPIKES = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])  # [T, N]
FORMS = {
    **{
        str(t): SPIKES.to(t)
        for t in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
    },
    "packed": sl.pack(SPIKES),
    "with gradient": SPIKES.clone().requires_grad_(),
    "array": SPIKES.numpy(),
    "list": SPIKES.tolist(),
}


@pytest.mark.parametrize("name", FORMS)
def test_any_dtype_is_drawn_as_the_same_numbers(name):
    given = FORMS[name]
    marks = plot.raster(given).images[0].get_array()
    assert marks.tolist() == SPIKES.T.ne(0).tolist()
    assert [[float(y) for y in line.get_ydata()] for line in plot.traces(given).get_lines()] == SPIKES.T.tolist()
    pictures = plot.images([given] if name == "list" else given[None], columns=1)
    assert np.asarray(pictures.axes[0].images[0].get_array()).tolist() == SPIKES.tolist()
    counts = [row[:2] for row in given] if name == "list" else given[:, :2]
    assert plot.confusion(counts, ["a", "b"]).images[0].get_array().tolist() == [[0.0, 1.0], [0.5, 0.5]]


def test_counts_of_a_confusion_are_whole_in_half_precision():
    ax = plot.confusion(torch.tensor([[256.0, 256.0], [0.0, 1.0]]).bfloat16(), [1, 2])
    assert ax.images[0].get_array().tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert {text.get_text() for text in ax.texts} == {"256", "1"}


def test_figures_may_be_tensors_and_rows_may_lack_accuracies():
    rate = torch.tensor(0.25, requires_grad=True)
    assert [p.get_width() for p in plot.firing_rates({"one": rate, "two": rate.bfloat16()}).patches] == [0.25, 0.25]
    history = [{"epoch": 1, "loss": rate}, {"epoch": 2, "loss": 1.0, "test_accuracy": torch.tensor(0.5)}]
    ax = plot.curves(history)
    assert list(ax.get_lines()[0].get_ydata()) == [0.25, 1.0]
    right = next(a for a in ax.figure.axes if a is not ax)
    assert np.isnan(right.get_lines()[0].get_ydata()).tolist() == [True, False]
    assert right.get_lines()[0].get_ydata()[1] == 50.0


def test_a_layer_of_many_neurons_is_thinned_to_its_very_ends():
    spikes = torch.zeros(1, 2**24 + 3, dtype=torch.bool)  # more than float32 counts to
    spikes[0, -1] = True
    ax = plot.raster(spikes, max_neurons=3)
    assert ax.images[0].get_array().flatten().tolist() == [False, False, True]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "8,388,609", "16,777,218"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.raster(torch.zeros(0, 3)), ValueError, r"plot\.raster: .*T > 0 and neurons, got \[0, 3\]"),
        (lambda: plot.raster([]), ValueError, r"plot\.raster: .*got \[0\]"),
        (lambda: plot.raster("spikes"), TypeError, r"plot\.raster: expected a tensor with values, got str"),
        (lambda: plot.raster(SPIKES.to("meta")), TypeError, r"plot\.raster: .*got a tensor on meta"),
        (lambda: plot.raster(SPIKES, max_neurons=0), ValueError, r"plot\.raster: max_neurons .*at least 1, got 0"),
        (lambda: plot.traces(torch.zeros(3, 0)), ValueError, r"plot\.traces: .*T, N > 0, got \[3, 0\]"),
        (lambda: plot.traces(SPIKES + 0j), TypeError, r"plot\.traces: expected real numbers, got torch.complex64"),
        (lambda: plot.traces(SPIKES, labels=["a"]), ValueError, r"plot\.traces: .*each of the 3 neurons, got 1"),
        (lambda: plot.traces(SPIKES, highlight=3), ValueError, r"plot\.traces: highlight .*0 to 2, got 3"),
        (lambda: plot.images(torch.zeros(0, 2, 2), columns=1), ValueError, r"plot\.images: .*got \[0, 2, 2\]"),
        (lambda: plot.images(SPIKES[None], columns=0), ValueError, r"plot\.images: columns .*got 0"),
        (lambda: plot.curves([]), ValueError, r"plot\.curves: .*one or more epochs, got none"),
        (lambda: plot.curves([{"epoch": 1}]), ValueError, r"plot\.curves: row 0 has no 'loss', it has epoch"),
        (lambda: plot.curves({"epoch": 1}), TypeError, r"plot\.curves: expected a list of rows.*got dict"),
        (lambda: plot.firing_rates({}), ValueError, r"plot\.firing_rates: .*got none"),
        (lambda: plot.firing_rates([0.1]), TypeError, r"plot\.firing_rates: .*got list"),
        (lambda: plot.firing_rates({"a": float("nan")}), ValueError, r"plot\.firing_rates: .*got nan for a"),
        (lambda: plot.firing_rates({"a": torch.rand(2)}), TypeError, r"plot\.firing_rates: expected a number for 'a'"),
        (lambda: plot.confusion(torch.zeros(0, 0), []), ValueError, r"plot\.confusion: .*for 0 classes"),
        (lambda: plot.confusion(torch.full((1, 1), 0.5), ["a"]), ValueError, r"plot\.confusion: expected counts"),
        (lambda: plot.events([]), sl.data.DataError, r"plot\.events: events need columns"),
        (lambda: plot.events(recording(), panels=0), ValueError, r"plot\.events: panels .*got 0"),
        (lambda: plot.animate(recording(), frames=0), ValueError, r"plot\.animate: frames .*got 0"),
        (lambda: plot.animate(recording(), seconds=0.0), ValueError, r"plot\.animate: seconds .*got 0.0"),
        (lambda: plot.figure(0), ValueError, r"plot\.figure: rows .*got 0"),
    ],
)
def test_what_cannot_be_drawn_is_told_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_of_other_kinds():
    ax = plot.traces(torch.zeros(3, 1), v_threshold=torch.tensor(0.5, requires_grad=True))
    assert ax.get_lines()[1].get_ydata() == [0.5, 0.5]
    ax = plot.curves([{"epoch": 1, "loss": 2.0, 7: "seven"}])
    assert ax.get_lines()[0].get_ydata().tolist() == [2.0]
    with pytest.raises(TypeError, match="expected a number for 'v_threshold'"):
        plot.traces(torch.zeros(3, 2), v_threshold=torch.ones(2))
    with pytest.raises(ValueError, match="highlight must be one of the neurons 0 to 1, got 'a'"):
        plot.traces(torch.zeros(3, 2), highlight="a")
    with pytest.raises(TypeError, match="expected a number for 'seconds'"):
        plot.animate({"t": [0, 1], "x": [0, 1], "y": [0, 0], "p": [0, 1]}, seconds="a")
