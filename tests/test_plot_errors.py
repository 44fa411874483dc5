"""Pictures: what cannot be drawn is told, with the function's name and what was expected."""

import pytest
import torch

mpl = pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
mpl.use("Agg")

import spikeloom as sl  # noqa: E402  # after the backend is chosen
from spikeloom import plot  # noqa: E402

SPIKES = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])  # [T, N]


def recording():
    return sl.data.events.as_recording({"t": [0, 1], "x": [0, 1], "y": [0, 0], "p": [0, 1]})


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
        (lambda: plot.firing_rates({"a": "x"}), TypeError, r"plot\.firing_rates: expected a number for 'a', got str"),
        (lambda: plot.firing_rates({"a": [0.1, -1.0]}), ValueError, r"plot\.firing_rates: rates of neurons must be"),
        (
            lambda: plot.spike_count(torch.ones(2, 3, 4)),
            ValueError,
            r"plot\.spike_count: .*\[T, N\].*one sample of the",
        ),
        (lambda: plot.spike_count(SPIKES, ["a"]), ValueError, r"plot\.spike_count: .*each of the 3 neurons, got 1"),
        (lambda: plot.heatmap(torch.ones(3)), ValueError, r"plot\.heatmap: .*\[T, N\] with T, N > 0, got \[3\]"),
        (lambda: plot.surrogate("ATan"), TypeError, r"plot\.surrogate: expected a surrogate .*got str"),
        (lambda: plot.neuron_response(sl.LIF), TypeError, r"plot\.neuron_response: expected a neuron .*got type"),
        (lambda: plot.neuron_response(sl.LIF(), SPIKES), ValueError, r"plot\.neuron_response: .*got \[2, 3\]"),
        (lambda: plot.weights(torch.ones(3)), ValueError, r"plot\.weights: expected weights .*got \[3\]"),
        (lambda: plot.bars3d(SPIKES, max_steps=0), ValueError, r"plot\.bars3d: max_steps .*got 0"),
        (lambda: plot.feature_maps(SPIKES), ValueError, r"plot\.feature_maps: .*\[C, H, W\] .*got \[2, 3\]"),
        (lambda: plot.neuron(SPIKES, SPIKES), ValueError, r"plot\.neuron: .*\[T\], got \[2, 3\]; take one neuron"),
        (lambda: plot.neuron([0.0, 1.0], [0.0]), ValueError, r"plot\.neuron: expected spikes of one neuron, \[2\]"),
        (lambda: plot.neuron([0.0], [0.0], u=[0.0]), ValueError, r"plot\.neuron: .*give v_threshold= too"),
        (lambda: plot.neuron([0.0], [0.0], torch.ones(3)), ValueError, r"plot\.neuron: v_threshold .*\[1\], got \[3\]"),
        (lambda: plot.traces(SPIKES, spikes=SPIKES[:1]), ValueError, r"plot\.traces: .*shape of v, \[2, 3\], got"),
        (lambda: plot.animate(torch.ones(2, 3, 4, 4)), ValueError, r"plot\.animate: .*\[T, H, W\].*got \[2, 3, 4, 4\]"),
        (lambda: plot.animate(torch.ones(0, 4, 4)), ValueError, r"plot\.animate: .*got \[0, 4, 4\]"),
        (lambda: plot.animate(-torch.ones(2, 2, 4, 4)), ValueError, r"plot\.animate: .*not negative"),
        (lambda: plot.animate(torch.ones(2, 4, 4), labels="ab"), ValueError, r"plot\.animate: labels .*\[T, N\]"),
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
