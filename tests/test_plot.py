"""Pictures: what is drawn is what was given."""

import numpy as np
import pytest
import torch

mpl = pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
mpl.use("Agg")

import PIL.Image  # noqa: E402  # comes with matplotlib

import spikeloom as sl  # noqa: E402  # after the backend is chosen
from spikeloom import plot  # noqa: E402
from spikeloom.plot import look  # noqa: E402
from spikeloom.runs import confusion_picture  # noqa: E402


@pytest.fixture(autouse=True)
def _close():
    yield
    mpl.pyplot.close("all")


def test_raster_shows_every_spike():
    spikes = torch.zeros(5, 2, 3)
    spikes[1, 0, 2] = spikes[4, 1, 1] = 1
    ax = plot.raster(spikes, title="layer")
    assert dots(ax) == [(1, 2), (4, 4)]  # step, neuron
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("step", "neuron", "layer")
    assert not ax.child_axes


def dots(ax):
    """Where the dots of a raster are, in the order of steps."""
    return sorted(tuple(place) for place in ax.collections[0].get_offsets().tolist())


def test_raster_says_that_it_thins():
    ax = plot.raster(torch.ones(3, 1000), max_neurons=50)
    assert len(dots(ax)) == 3 * 50
    assert {n for _, n in dots(ax)} >= {0, 20, 999}  # of 999 k // 49
    assert ax.get_title(loc="left") == "(50 of 1,000 neurons)"


def test_a_raster_with_rates_and_negative_spikes():
    ax = plot.raster(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), rates=True)
    assert dots(ax) == [(0, 0), (1, 0), (2, 0)]
    assert [mpl.colors.to_hex(c) for c in ax.collections[0].get_facecolors()] == [look.INK, look.RED, look.INK]
    (beside,) = ax.child_axes
    values, edges, _ = beside.patches[0].get_data()
    assert (values.tolist(), edges.tolist()) == ([0.75, 0.0], [-0.5, 0.5, 1.5])
    assert beside.get_xlabel() == "spikes per step"


def test_ticks_are_round():
    ax = plot.raster(torch.zeros(6, 3072))
    ax.figure.canvas.draw()
    assert [t for t in ax.get_yticks() if 0 <= t < 3072] == [0, 1000, 2000, 3000]
    assert [t for t in ax.get_xticks() if 0 <= t < 6] == [0, 1, 2, 3, 4, 5]


def test_traces_draw_one_line_a_neuron():
    v = torch.rand(6, 4)
    ax = plot.traces(v, highlight=2, v_threshold=1.0, labels=["a", "b", "c", "d"])
    lines = ax.get_lines()
    assert len(lines) == 5
    assert lines[3].get_ydata().tolist() == v[:, 3].tolist()
    assert lines[2].get_linewidth() > lines[1].get_linewidth()
    assert [plot.traces(v, **given).get_ylabel() for given in ({}, {"ylabel": "u"})] == ["v", "u"]


def test_spikes_above_traces_are_a_row_for_each_neuron():
    v = torch.tensor([[0.0, 0.2], [0.4, 1.0], [0.1, 0.0]])
    spikes = torch.tensor([[0, 0], [1, 0], [1, 1]])
    ax = plot.traces(v, spikes=spikes, v_threshold=1.5)
    (t, first), (u, again), (w, second) = ax.collections[0].get_offsets().tolist()
    assert (t, u, w) == (1, 2, 2)
    assert first == again > second > 1.5  # above all that is drawn
    assert [mpl.colors.to_hex(c) for c in ax.collections[0].get_facecolors()] == [look.BLUE, look.BLUE, look.RED]


def test_names_stand_at_the_ends_of_lines_and_do_not_touch():
    ax = plot.traces(torch.tensor([[0.0, 0.0, 0.0], [1.0, 5.0, 1.0]]), labels=["a", "b", "c"])
    places = {text.get_text(): text.xy for text in ax.texts}
    assert places["b"] == (1, 5.0)
    assert (places["a"][1] + places["c"][1]) / 2 == pytest.approx(1.0)
    assert places["c"][1] - places["a"][1] > 0.1
    many = plot.traces(torch.rand(3, 30), labels=range(100, 130), highlight=7)
    assert [text.get_text() for text in many.texts] == ["107"]
    assert not plot.traces(torch.rand(3, 30)).texts
    # by hand: 0 and 0.5 share their mean, 0.25; 3 is far enough
    assert look.apart(torch.tensor([0.0, 0.5, 3.0]), 1.0).tolist() == [-0.25, 0.75, 3.0]


def test_one_neuron_with_the_voltage_before_the_reset():
    """LIF of tau 2 at rest 0: h = (v + x) / 2, by hand; a hard reset goes to 0, a soft one to h - 1."""
    x = torch.tensor([1.0, 2.0, 1.0]).view(3, 1, 1)
    for reset, v in (("hard", [0.5, 0.0, 0.5]), ("soft", [0.5, 0.25, 0.625])):
        spikes, _, seen = sl.LIF(tau=2.0, reset=reset).sequence(x, record=("u", "v"))
        ax = plot.neuron(seen["v"], spikes, 1.0, u=seen["u"], v_reset=0.0)
        voltage, threshold, rest = ax.get_lines()
        h = [0.5, 1.25, 0.5 if reset == "hard" else 0.625]
        assert voltage.get_xdata().tolist() == [0, 0, 1, 1, 2, 2]
        assert voltage.get_ydata().tolist() == [h[0], v[0], h[1], v[1], h[2], v[2]]
        assert (threshold.get_ydata().tolist(), rest.get_ydata()) == ([1.0] * 3, [0.0, 0.0])
        (line,) = ax.collections[0].get_segments()
        assert line[:, 0].tolist() == [1, 1]
        assert line[:, 1].min() > 1.25  # above the voltage
    ax = plot.neuron([0.5, 0.0], [False, True], torch.tensor([1.0, 1.5]))
    assert [line.get_ydata().tolist() for line in ax.get_lines()] == [[0.5, 0.0], [1.0, 1.5]]


def test_the_response_of_a_neuron():
    neuron = sl.LIF(tau=2.0).train()
    ax = plot.neuron_response(neuron, torch.tensor([1.0, 2.0, 1.0]))
    voltage, threshold = ax.get_lines()
    assert voltage.get_ydata().tolist() == [0.5, 0.5, 1.25, 0.0, 0.5, 0.5]  # as above, by hand
    assert threshold.get_ydata().tolist() == [1.0] * 3
    assert [line[0, 0] for line in ax.collections[0].get_segments()] == [1]
    assert ax.get_title(loc="left") == "LIF"
    behind = next(a for a in ax.figure.axes if a is not ax)
    assert behind.get_lines()[0].get_ydata().tolist() == [1.0, 2.0, 1.0]
    assert neuron.training
    mixed = sl.nn.Recurrent(sl.LIF(), torch.nn.Linear(1, 1)).train()
    mixed.neuron.eval()
    modes = [part.training for part in mixed.modules()]
    plot.neuron_response(mixed, T=5)
    assert [part.training for part in mixed.modules()] == modes
    (moving,) = plot.neuron_response(sl.ALIF(), T=30).get_lines()  # whose threshold is no line
    assert len(moving.get_ydata()) == 30
    (voltage,) = plot.neuron_response(sl.LI(tau=2.0), [1.0, 1.0]).get_lines()
    assert voltage.get_ydata().tolist() == [0.5, 0.75]


def test_surrogates_are_drawn_from_their_definition():
    """ATan of scale a: derivative a / 2 / (1 + (pi a u / 2)^2)."""
    before = torch.get_rng_state()
    ax = plot.surrogate(sl.surrogate.ATan(2.0), span=1.0)
    primitive, step, derivative = ax.get_lines()
    u = derivative.get_xdata().astype(float)
    np.testing.assert_allclose(derivative.get_ydata(), 1 / (1 + (np.pi * u) ** 2), rtol=1e-5)
    np.testing.assert_allclose(primitive.get_ydata(), np.arctan(np.pi * u) / np.pi + 0.5, atol=1e-6)
    assert step.get_ydata().tolist() == (u >= 0).tolist()
    assert (ax.get_title(loc="left"), u[0], u[-1]) == ("ATan", -1.0, 1.0)
    assert len(plot.surrogate(sl.surrogate.Custom(lambda u, a: torch.relu(1 - a * u.abs()))).get_lines()) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_layers():
    w = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.0, 0.0]])
    ax = plot.weights(w)
    assert ax.images[0].get_array().tolist() == w.tolist()
    assert (ax.images[0].get_clim(), ax.get_xlabel(), ax.get_ylabel()) == ((-2, 2), "input", "output")
    conv = torch.nn.Conv2d(2, 3, 1)
    tiles = np.ma.filled(plot.weights(conv).images[0].get_array(), 9.0)
    assert tiles[::2, ::2].tolist() == conv.weight[:, :, 0, 0].T.tolist()  # a column for each output


def test_counts_grow_with_the_steps():
    spikes = torch.tensor([[1, 0], [1, 0], [0, 1]])
    ax = plot.spike_count(spikes, ["cat", "dog"], highlight=1)
    assert [line.get_ydata().tolist() for line in ax.get_lines()] == [[1, 2, 2], [0, 0, 1]]
    assert [text.get_text() for text in ax.texts] == ["dog", "cat"]  # from below
    assert ax.get_lines()[1].get_color() == look.BLUE
    film = plot.animate(spikes, labels=["cat", "dog"])
    widths = []
    for k in range(3):
        film._func(k)
        widths.append([bar.get_width() for bar in film._fig.axes[0].patches])
    assert widths == [[1, 0], [2, 0], [2, 1]]
    assert [tick.get_text() for tick in film._fig.axes[0].get_yticklabels()] == ["cat", "dog"]
    assert film._fig.axes[0].get_title(loc="left") == "step 2"
    film._draw_was_started = True  # or matplotlib warns that it was not


def test_heat_maps_and_bars():
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    ax = plot.heatmap(values, label="rate")
    assert ax.images[0].get_array().tolist() == values.T.tolist()
    assert ax.images[0].get_clim() == (0, 5)
    assert ax.figure.axes[1].get_ylabel() == "rate"
    assert plot.heatmap(values - 1).images[0].get_clim() == (-4, 4)  # both signs: white is 0
    ax = plot.heatmap(values, max_neurons=2, title="v")
    assert ax.images[0].get_array().tolist() == [[0, 3], [2, 5]]
    assert ax.get_title(loc="left") == "v (2 of 3 neurons)"


def test_bars_in_three_dimensions(monkeypatch):
    drawn = []
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    axes3d = mpl.pyplot.figure().add_subplot(projection="3d")
    monkeypatch.setattr(axes3d, "bar3d", lambda *args, **_: drawn.append(args))
    assert plot.bars3d(values, ax=axes3d) is axes3d
    ((x, y, z, dx, dy, dz),) = drawn
    assert ((x + dx / 2).tolist(), (y + dy / 2).tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    assert (z, dz.tolist()) == (0, [0, 1, 2, 3, 4, 5])
    title = plot.bars3d(torch.ones(9, 9), max_steps=3, max_neurons=4).get_title(loc="left")
    assert title == "(3 of 9 steps) (4 of 9 neurons)"
    with pytest.raises(ValueError, match="ax must be three-dimensional"):
        plot.bars3d(values, ax=plot.figure()[1][0])


def test_feature_maps_are_tiles_of_one_image():
    x = torch.arange(12.0).view(3, 2, 2)
    ax = plot.feature_maps(x, columns=2, label="spikes")
    nan = float("nan")
    wanted = [[0, 1, nan, 4, 5], [2, 3, nan, 6, 7], [nan] * 5, [8, 9, nan, nan, nan], [10, 11, nan, nan, nan]]
    shown = np.ma.filled(ax.images[0].get_array(), nan)
    np.testing.assert_array_equal(shown, np.array(wanted))
    assert ax.images[0].get_clim() == (0, 11)
    assert ax.figure.axes[1].get_ylabel() == "spikes"
    ax = plot.feature_maps(torch.ones(100, 2, 2), max_channels=10, title="conv")
    assert ax.get_title(loc="left") == "conv (10 of 100 channels)"


def test_bars_of_firing_rates():
    ax = plot.firing_rates({"one": 0.1, "two": 0.4})
    assert [p.get_width() for p in ax.patches] == [0.1, 0.4]
    assert not ax.child_axes
    ax = plot.firing_rates({"number": 0.25, "neurons": torch.tensor([0.0, 0.0, 0.5, 1.0, 0.25])})
    assert [p.get_width() for p in ax.patches] == [0.25, 0.35]
    (beside,) = ax.child_axes
    _, silent, saturated = beside.patches
    assert (silent.get_width(), saturated.get_width(), saturated.get_x()) == (40.0, 20.0, 80.0)
    assert [text.get_text() for text in beside.texts] == ["40.0 %", "20.0 %"]
    assert silent.get_y() == ax.patches[1].get_y()  # beside the layer that it belongs to


def test_a_confusion_of_no_samples_is_drawn():
    ax = confusion_picture(torch.zeros(2, 2, dtype=torch.int64), ("a", "b"), "test").axes[0]
    assert ax.get_title(loc="left") == "0.00 % of 0 test samples"


def test_losses_below_zero_are_in_the_picture():
    ax = plot.curves([{"epoch": 1, "loss": -1.0}, {"epoch": 2, "loss": -3.0}])
    low, high = ax.get_ylim()
    assert low < -3.0 < -1.0 < high
    assert plot.curves([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 3.0}]).get_ylim()[0] == 0.0


def test_counts_of_unsigned_numbers_are_drawn():
    x = np.array([[0, 3, 1], [40000, 0, 2]], dtype=np.uint16)
    assert plot.heatmap(x).images[0].get_array().tolist() == x.T.tolist()
    assert len(plot.raster(x).collections[0].get_offsets()) == 4


def test_curves_have_marks_and_say_whose_accuracy_it_is():
    history = [
        {"epoch": 1, "loss": 2.0, "accuracy": 0.25, "test_accuracy": 0.5},
        {"epoch": 2, "loss": 1.0, "accuracy": 0.5, "test_accuracy": 0.75},
    ]
    for rows in (history, history[:1]):  # one epoch is seen too
        ax = plot.curves(rows)
        right = next(a for a in ax.figure.axes if a is not ax)
        (loss,), (training, test) = ax.get_lines(), right.get_lines()
        assert list(loss.get_ydata()) == [2.0, 1.0][: len(rows)]
        assert list(training.get_ydata()) == [25.0, 50.0][: len(rows)]
        assert list(test.get_ydata()) == [50.0, 75.0][: len(rows)]
        assert len({line.get_marker() for line in (loss, training, test)} - {"", "None"}) == 3
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["training loss", "training accuracy", "test accuracy"]
        ax.figure.canvas.draw()
        low, high = ax.get_xlim()
        assert [t for t in ax.get_xticks() if low < t < high] == [row["epoch"] for row in rows]


def test_names_of_the_peers_are_told():
    with pytest.raises(AttributeError, match=r"it is sl\.plot\.neuron\(v, s, v_threshold\) here"):
        _ = plot.plot_one_neuron_v_s
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = plot.nothing


def test_style_is_a_context():
    before = dict(mpl.rcParams)
    with plot.style({"font.size": 20.0}):
        assert mpl.rcParams["axes.titlelocation"] == "left"
        assert not mpl.rcParams["axes.spines.top"]
        ax = plot.raster(torch.ones(2, 2), title="large")
        assert ax._left_title.get_fontsize() == 20.0
        assert mpl.rcParams["font.size"] == 20.0
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match="one sample"):
        plot.raster(torch.ones(2))
    assert dict(mpl.rcParams) == before
    assert plot.raster(torch.ones(2, 2), title="small")._left_title.get_fontsize() == 10.0


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
    red = np.array(mpl.colors.to_rgb(look.RED))
    share = (1 - picture[on_only]) / (1 - red)  # how far from white to red
    assert (share > 0).all()
    np.testing.assert_allclose(share, share[:, :1].repeat(3, 1), rtol=1e-5)
    assert [ax.get_title(loc="left") for ax in axes] == ["0.000 s", "0.000 s", "0.000 s", "0.001 s"]


def test_events_as_cloud_channels_and_film(tmp_path):
    (cloud,) = plot.events(recording(), kind="cloud")
    assert len(cloud.collections[0].get_offsets()) == 100
    assert cloud.figure.get_suptitle() == "100 events, 5 x 7 pixels, 0.00099 s"
    (channels,) = plot.events(sl.data.events.make_events([0, 5, 9], [3, 1, 0], None, [1, 1, 1]))
    assert channels.collections[0].get_offsets()[:, 1].tolist() == [3, 1, 0]
    film = plot.animate(recording(), frames=3)
    film.save(tmp_path / "film.gif", writer="pillow")
    with PIL.Image.open(tmp_path / "film.gif") as opened:
        assert opened.n_frames == 3
    empty = sl.data.Recording(recording().events[:0], (5, 7))
    assert len(plot.events(empty)) == 5
    with pytest.raises(ValueError, match='"frames" or "cloud"'):
        plot.events(recording(), kind="film")
    with pytest.raises(ValueError, match="needs the events of a camera"):
        plot.animate(sl.data.events.make_events([0], [3], None, [1]))


def frames_of(film):
    """What is drawn in each frame of a film, and its title; one artist shows all."""
    ax = film._fig.axes[0]
    (image,) = ax.images
    for k in range(film._save_count):
        assert film._func(k)[0] is image
        yield np.asarray(image.get_array()).tolist(), ax.get_title(loc="left")
    film._draw_was_started = True  # or matplotlib warns that it was not


def test_films_of_tensors(tmp_path):
    x = torch.arange(20.0).view(5, 2, 2)
    film = plot.animate(x, title="h")
    film.save(tmp_path / "h.gif", writer="pillow")
    with PIL.Image.open(tmp_path / "h.gif") as opened:
        assert opened.n_frames == 5
    assert list(frames_of(film)) == [(x[k].tolist(), f"h, step {k}") for k in range(5)]
    assert film._fig.axes[0].images[0].get_clim() == (0, 19)  # the same colours in all frames
    film = plot.animate(sl.pack((x > 9).float().unsqueeze(1)), frames=2)  # [T, 1, H, W], thinned
    wanted = [([[0.0, 0.0], [0.0, 0.0]], "step 0 (2 of 5 steps)"), ([[1.0, 1.0], [1.0, 1.0]], "step 4 (2 of 5 steps)")]
    assert list(frames_of(film)) == wanted
    assert "<img" in film.to_jshtml()


def test_films_of_two_polarities():
    x = torch.zeros(2, 2, 1, 3)
    x[0, 0, 0, 0] = x[1, 1, 0, 2] = 1
    white, off, on = ([1.0, 1.0, 1.0], mpl.colors.to_rgb(look.BLUE), mpl.colors.to_rgb(look.RED))
    film = plot.animate(x.bfloat16())
    for (picture, _), wanted in zip(frames_of(film), ([off, white, white], [white, white, on]), strict=True):
        np.testing.assert_allclose(picture, [wanted], atol=1e-6)


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
    assert dots(plot.raster(given)) == [(0, 1), (1, 0), (1, 1)]
    assert plot.heatmap(given).images[0].get_array().tolist() == SPIKES.T.tolist()
    assert [line.get_ydata().tolist() for line in plot.spike_count(given).get_lines()] == [[0, 1], [1, 2], [0, 0]]
    assert [[float(y) for y in line.get_ydata()] for line in plot.traces(given).get_lines()] == SPIKES.T.tolist()
    pictures = plot.images([given] if name == "list" else given[None], columns=1)
    assert np.asarray(pictures.axes[0].images[0].get_array()).tolist() == SPIKES.tolist()
    maps = plot.feature_maps([given] if name == "list" else given[None], columns=1)
    assert maps.images[0].get_array().tolist() == SPIKES.tolist()
    counts = [row[:2] for row in given] if name == "list" else given[:, :2]
    spikes = [row[1] for row in given] if name == "list" else given[:, 1]
    assert plot.neuron(spikes, spikes).get_lines()[0].get_ydata().tolist() == [1.0, 1.0]
    assert plot.confusion(counts, ["a", "b"]).images[0].get_array().tolist() == [[0.0, 100.0], [50.0, 50.0]]


def test_counts_of_a_confusion_are_whole_in_half_precision():
    ax = plot.confusion(torch.tensor([[256.0, 256.0], [0.0, 1.0]]).bfloat16(), [1, 2])
    assert ax.images[0].get_array().tolist() == [[50.0, 50.0], [0.0, 100.0]]
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
    assert dots(ax) == [(0, 2**24 + 2)]
