"""Networks of current-based LIF neurons in continuous time: closed forms between events, crossings by bisection."""

import math

import numpy as np


def layer(events, weights, tau_mem, tau_syn, end, threshold=1.0):
    """Spikes ``[(time, neuron)]`` of a layer that is given ``events`` of the same form."""
    found = []
    for j, row in enumerate(weights):
        v = i = now = 0.0
        for time, w in [(t, row[k]) for t, k in sorted(events)] + [(end, 0.0)]:
            while (crossing := first_crossing(v, i, time - now, tau_mem, tau_syn, threshold)) is not None:
                i *= math.exp(-crossing / tau_syn)
                v, now = 0.0, now + crossing
                found.append((now, j))
            v, i = voltage(v, i, time - now, tau_mem, tau_syn), i * math.exp(-(time - now) / tau_syn) + w
            now = time
    return found


def voltage(v, i, dt, tau_mem, tau_syn):
    k = tau_syn / (tau_syn - tau_mem) * (np.exp(-dt / tau_syn) - np.exp(-dt / tau_mem))
    return v * np.exp(-dt / tau_mem) + i * k


def first_crossing(v, i, span, tau_mem, tau_syn, threshold):
    if span <= 0 or (v <= 0 and i <= 0):
        return None
    grid = np.linspace(0.0, span, 60)
    above = np.nonzero(voltage(v, i, grid, tau_mem, tau_syn)[1:] >= threshold)[0]
    if len(above) == 0:
        return None
    low, high = grid[above[0]], grid[above[0] + 1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if voltage(v, i, middle, tau_mem, tau_syn) >= threshold else (middle, high)
    return high


def run(inputs, weights, tau_mem, tau_syn, end):
    """Spikes of each layer."""
    found, events = [], inputs
    for w in weights:
        events = layer(events, w, tau_mem, tau_syn, end)
        found.append(events)
    return found


def gradients(loss, inputs, weights, tau_mem, tau_syn, end, eps=1e-6):
    """Central differences of ``loss(spikes of the last layer)`` with respect to all weights."""
    counts = [len(s) for s in run(inputs, weights, tau_mem, tau_syn, end)]
    found = [np.zeros_like(w) for w in weights]
    for w, g in zip(weights, found, strict=True):
        for place in np.ndindex(*w.shape):
            both = []
            for sign in (1, -1):
                w[place] += sign * eps
                spikes = run(inputs, weights, tau_mem, tau_syn, end)
                assert [len(s) for s in spikes] == counts  # no spike appears or vanishes
                both.append(loss(spikes[-1]))
                w[place] -= sign * eps
            g[place] = (both[0] - both[1]) / (2 * eps)
    return found
