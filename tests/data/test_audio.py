"""The cochlea against closed forms: what a tone does to each stage, and the integrator step by step."""

import math

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data.audio import erb


def tone(f, rate=8000, seconds=0.5, amplitude=1.0):
    return amplitude * np.cos(2 * np.pi * f * np.arange(int(seconds * rate)) / rate)


PLAIN = dict(level=None, compression=1.0, adaptation=0.0)


def test_bandwidths_and_centres():
    np.testing.assert_allclose(erb([100, 1000, 4000]), [24.7 * 1.437, 24.7 * 5.37, 24.7 * 18.48])
    ears = data.Cochlea(channels=32, rate=16_000, low=100, high=7000)
    assert ears.centres[0] == pytest.approx(100)
    assert ears.centres[-1] == pytest.approx(7000)
    steps = np.diff(21.4 * np.log10(1 + 0.00437 * ears.centres))
    np.testing.assert_allclose(steps, steps[0])  # evenly in ERB numbers
    mel = np.diff(2595 * np.log10(1 + data.Cochlea(channels=32, bank="mel").centres / 700))
    np.testing.assert_allclose(mel, mel[0])
    assert data.Cochlea(rate=8000).top == 3600
    assert data.Cochlea(rate=44_100).top == 8000


def test_a_tone_at_a_centre_keeps_its_amplitude():
    """Half of a cosine's wave has the mean A / pi."""
    ears = data.Cochlea(channels=20, rate=16_000, low=200, high=5000, **PLAIN)
    for k in (3, 10, 16):
        drive, step = ears.drive(tone(ears.centres[k], 16_000, amplitude=0.5))
        late = drive[:, drive.shape[1] // 2 :].mean(1)
        assert step == pytest.approx(0.002)
        assert late[k] == pytest.approx(0.5 / math.pi, rel=0.02)
        assert late.argmax() == k
        assert late[k] > 5 * late[(k + 10) % 20]


def test_impulse_responses_are_gammatones():
    ears = data.Cochlea(channels=5, rate=8000)
    t = np.arange(200) / 8000
    for f, found in zip(ears.centres, ears._impulse, strict=True):
        wanted = t**3 * np.exp(-2 * np.pi * 1.019 * 24.7 * (0.00437 * f + 1) * t) * np.cos(2 * np.pi * f * t)
        np.testing.assert_allclose(found[:200] / np.abs(found).max(), wanted / np.abs(wanted).max(), atol=1e-3)


def test_a_mel_bank_has_the_tone_where_it_is():
    ears = data.Cochlea(channels=20, rate=16_000, bank="mel", **PLAIN)
    for k in (5, 10, 19):
        drive, _ = ears.drive(tone(ears.centres[k], 16_000))
        middle = drive[:, drive.shape[1] // 4 : drive.shape[1] // 2].mean(1)
        assert middle.argmax() == k
    few = data.Cochlea(channels=64, rate=8000, bank="mel")  # narrower than the lines of the spectrum
    assert np.isfinite(few.drive(tone(300))[0]).all()
    assert len(few(tone(300))) > 0


@pytest.mark.parametrize("bank", ["gammatone", "mel"])
def test_the_hair_cells_integrate_and_fire(bank):
    """V += gain drive dt; a spike for each 1 that it passes, and V -= 1."""
    ears = data.Cochlea(channels=8, rate=8000, bank=bank, gain=900.0)
    sound = tone(700) * np.linspace(0, 1, 4000)
    drive, step = ears.drive(sound)
    wanted = []
    for channel in range(8):
        v = 0.0
        for k, value in enumerate(drive[channel]):
            v += 900.0 * value * step
            while v >= 1 - 1e-9:
                wanted.append((round((k + 1) * step * 1e6), channel))
                v -= 1
    found = ears(sound)
    assert [(t, x) for t, x, _ in found.events.tolist()] == sorted(wanted)
    assert found.size == (8,)
    assert len(found) > 100


def test_adaptation_level_and_silence():
    steady = tone(1000, seconds=1.0)
    for adaptation in (0.0, 0.5, 0.8):
        drive, _ = data.Cochlea(channels=16, adaptation=adaptation).drive(steady)
        best = drive[drive.sum(1).argmax()]
        plain, _ = data.Cochlea(channels=16, adaptation=0.0).drive(steady)
        late = best[-50:].mean() / plain[plain.sum(1).argmax()][-50:].mean()
        assert late == pytest.approx(1 - adaptation, abs=0.02)
    ears = data.Cochlea(channels=16)
    assert ears(steady).events.tolist() == ears(0.01 * steady).events.tolist()
    loud = data.Cochlea(channels=16, level=None)
    assert len(loud(steady)) > 2 * len(loud(0.01 * steady))
    assert len(ears(np.zeros(4000))) == 0
    assert len(ears(np.zeros(0))) == 0
    assert len(ears(np.zeros(3))) == 0


def test_wrong_settings():
    for options, message in (
        (dict(channels=0), "needs channels"),
        (dict(low=5000), "0 < low < high"),
        (dict(high=5000), "high <= rate / 2"),
        (dict(bank="bark"), 'must be "gammatone" or "mel"'),
        (dict(adaptation=1.5), "adaptation from 0 to 1"),
        (dict(gain=0), "must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Cochlea(**options)
    with pytest.raises(data.DataError, match="finite waveform"):
        data.Cochlea()(np.array([0.0, math.nan]))
    with pytest.raises(data.DataError, match=r"got \[2, 3\]"):
        data.Cochlea()(np.zeros((2, 3)))
