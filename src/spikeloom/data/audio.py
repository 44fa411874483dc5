"""Sound as spikes: a filter bank like the cochlea's, hair cells that fire, and a reader of WAV files.

>>> import numpy as np
>>> from spikeloom.data import Cochlea
>>> tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
>>> ears = Cochlea(channels=32, rate=8000)
>>> spikes = ears(tone)
>>> counts = np.bincount(spikes.events["x"], minlength=32)
>>> bool(900 < ears.centres[counts.argmax()] < 1100)
True
"""

from __future__ import annotations

import functools
import io
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DataError
from .events import Recording, make_events


def read_wav(source: str | Path | bytes, *, name: str = "") -> tuple[NDArray[np.float32], int]:
    """Samples from -1 to 1, ``[L]`` (the mean of several channels), and their rate in Hz, of a PCM WAV file of 8, 16,
    24 or 32 bits, by path or by its bytes.

    >>> import io, wave
    >>> import numpy as np
    >>> import spikeloom as sl
    >>> content = io.BytesIO()
    >>> with wave.open(content, "wb") as file:
    ...     file.setparams((1, 2, 8000, 0, "NONE", ""))  # one channel, two bytes a sample
    ...     file.writeframes(np.array([16384, -32768], "<i2").tobytes())
    >>> samples, rate = sl.data.read_wav(content.getvalue())
    >>> samples.tolist(), rate
    ([0.5, -1.0], 8000)
    """
    where = name or (str(source) if not isinstance(source, bytes) else "WAV data")
    try:
        raw = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as missing:
        raise DataError(f"{where}: cannot be read: {missing.strerror or missing}") from missing
    try:
        with wave.open(io.BytesIO(raw)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            body = file.readframes(min(file.getnframes(), len(raw)))
    except Exception as broken:  # the wave module raises errors of several kinds, some without a message
        what = str(broken) or type(broken).__name__
        raise DataError(f"{where}: not a readable PCM WAV file ({what}); fetch it again") from broken
    if width not in (1, 2, 3, 4) or not channels or rate <= 0 or len(body) % (width * channels):
        raise DataError(f"{where}: {len(body):,} bytes of {channels} channels of {8 * width} bits, at {rate} Hz")
    values: NDArray[Any]
    if width == 1:
        values = np.frombuffer(body, np.uint8).astype(np.float32) / 128 - 1
    elif width == 3:
        table = np.zeros((len(body) // 3, 4), np.uint8)
        table[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        values = table.view("<i4").reshape(-1).astype(np.float64) / 2**31
    else:
        values = np.frombuffer(body, f"<i{width}").astype(np.float64) / 2.0 ** (8 * width - 1)
    return values.reshape(-1, channels).mean(1).astype(np.float32), rate


def erb(f: ArrayLike) -> NDArray[np.float64]:
    """Equivalent rectangular bandwidth of the ear at ``f`` Hz, in Hz: ``24.7 (4.37 f / 1000 + 1)`` (B. R. Glasberg and
    B. C. J. Moore, 1990).

    >>> from spikeloom.data.audio import erb
    >>> round(float(erb(1000)), 1)  # 24.7 times 5.37
    132.6
    """
    return 24.7 * (4.37e-3 * np.asarray(f, np.float64) + 1)


@dataclass(frozen=True, kw_only=True)
class Cochlea:
    """Turns a waveform into spikes of ``channels`` hair cells, the lowest pitch first.

    1. A filter bank: gammatone filters ``t^3 exp(-2 pi 1.019 ERB(f) t) cos(2 pi f t)`` at frequencies evenly spaced in
       ERB numbers, or a mel bank of triangles over the spectrum of short windows.
    2. A hair cell for each: the rectified output (gammatone) or magnitude (mel), smoothed over ``smooth`` seconds,
       compressed to the power ``compression``, less ``adaptation`` times its own mean over the last ``memory`` seconds.
    3. Integrate and fire: the cell fires whenever the sum of its drive passes the next multiple of the threshold, so
       that a drive of 1 gives ``gain`` spikes per second. It is the exact solution of an integrator with reset by
       subtraction, found for all times at once.

    Args:
        channels: the number of hair cells.
        rate: the samples per second of the waveform.
        low, high: the lowest and the highest centre frequency in Hz; None is 0.45 of the rate, at most 8 kHz.
        bank: ``"gammatone"`` (R. D. Patterson et al., 1987) or ``"mel"``.
        gain: the spikes per second at a drive of 1.
        compression: the exponent of step 2; 1 is linear.
        adaptation: the factor of step 2, from 0, no adaptation, to 1, where a steady sound ends in silence.
        memory, smooth: the time constants of step 2 in seconds.
        level: the root mean square to which the waveform is scaled first; None leaves it as it is.
    """

    channels: int = 64
    rate: int = 8000
    low: float = 100.0
    high: float | None = None
    bank: Literal["gammatone", "mel"] = "gammatone"
    gain: float = 600.0
    compression: float = 0.3
    adaptation: float = 0.5
    memory: float = 0.05
    smooth: float = 0.004
    level: float | None = 0.1

    def __post_init__(self) -> None:
        top = self.top
        if self.channels < 1 or self.rate < 1 or not 0 < self.low < top <= self.rate / 2:
            raise ValueError(
                f"Cochlea: needs channels, a rate and 0 < low < high <= rate / 2, got {self.channels} channels, "
                f"{self.low} to {top} Hz at {self.rate} Hz"
            )
        if self.bank not in ("gammatone", "mel"):
            raise ValueError(f'Cochlea: bank must be "gammatone" or "mel", got {self.bank!r}')
        if min(self.gain, self.compression, self.memory, self.smooth) <= 0 or not 0 <= self.adaptation <= 1:
            raise ValueError("Cochlea: gain, compression, memory and smooth must be positive, adaptation from 0 to 1")

    @property
    def top(self) -> float:
        """The highest centre frequency, Hz."""
        return min(0.45 * self.rate, 8000.0) if self.high is None else self.high

    @functools.cached_property
    def centres(self) -> NDArray[np.float64]:
        """Centre frequencies, Hz."""
        if self.bank == "mel":
            mel = np.linspace(_mel(self.low), _mel(self.top), self.channels)
            return 700 * (10 ** (mel / 2595) - 1)
        number = np.linspace(_erb_number(self.low), _erb_number(self.top), self.channels)
        return (10 ** (number / 21.4) - 1) / 4.37e-3

    def __call__(self, waveform: ArrayLike) -> Recording:
        """Spikes of a waveform ``[L]``, as events of a sensor in one dimension (``p`` is always ON)."""
        drive, step = self.drive(waveform)
        total = np.floor(np.cumsum(drive, 1) * (self.gain * step) + 1e-9).astype(np.int64)
        fired = np.diff(total, axis=1, prepend=0)
        at, channel = np.nonzero(fired.T)
        counts = fired[channel, at]
        t = np.rint((np.repeat(at, counts) + 1) * (step * 1e6)).astype(np.int64)
        events = make_events(t, np.repeat(channel, counts), None, np.ones(len(t), bool))
        return Recording(events, (self.channels,), "cochlea")

    def drive(self, waveform: ArrayLike) -> tuple[NDArray[np.float64], float]:
        """The drive of the hair cells, ``[channels, steps]`` from 0 up, and the length of a step in seconds."""
        x = np.asarray(waveform, np.float64)
        if x.ndim != 1 or not np.isfinite(x).all():
            raise DataError(f"Cochlea: expected a finite waveform [L], got {list(x.shape)}")
        step = max(round(self.smooth * self.rate / 2), 1)
        if self.level is not None and len(x):
            power = np.sqrt(np.mean(x**2))
            x = x * (self.level / power) if power > 0 else x
        bank = self._gammatone(x) if self.bank == "gammatone" else self._mel_bank(x, step)
        seconds = step / self.rate
        if self.bank == "gammatone":
            bank = _smooth(np.maximum(bank, 0), self.smooth * self.rate)
            steps = bank.shape[1] // step
            bank = bank[:, : steps * step].reshape(self.channels, steps, step).mean(2)
        bank = np.maximum(bank, 0) ** self.compression
        if self.adaptation:
            bank = np.maximum(bank - self.adaptation * _smooth(bank, self.memory / seconds), 0)
        return bank, seconds

    def _gammatone(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Filtered waveforms ``[channels, L]``; a tone at a channel's centre keeps its amplitude."""
        n = len(x) + len(self._impulse[0]) - 1
        size = 1 << max(n - 1, 1).bit_length()
        spectrum = np.fft.rfft(x, size) * np.fft.rfft(self._impulse, size)
        return np.fft.irfft(spectrum, size)[:, : len(x)]

    @functools.cached_property
    def _impulse(self) -> NDArray[np.float64]:
        f = self.centres[:, None]
        width = 2 * np.pi * 1.019 * erb(f)
        t = np.arange(int(self.rate * 12 / width.min()) + 1) / self.rate
        response = t**3 * np.exp(-width * t) * np.cos(2 * np.pi * f * t)
        peak = np.abs((response * np.exp(-2j * np.pi * f * t)).sum(1, keepdims=True))
        return np.asarray(response / peak)

    def _mel_bank(self, x: NDArray[np.float64], step: int) -> NDArray[np.float64]:
        """Magnitudes weighted by triangles and summed, of a window of 25 ms around each step."""
        window = max(round(0.025 * self.rate), 16)
        steps = len(x) // step
        padded = np.pad(x, (window // 2, window))
        index = np.arange(steps)[:, None] * step + np.arange(window)
        spectrum = np.abs(np.fft.rfft(padded[index] * np.hanning(window), axis=1)) * (2 / np.hanning(window).sum())
        f = np.fft.rfftfreq(window, 1 / self.rate)
        edges = np.interp(
            np.arange(-1, self.channels + 1), np.arange(self.channels), self.centres, left=np.nan, right=np.nan
        )
        apart = _mel(self.centres[1]) - _mel(self.centres[0]) if self.channels > 1 else 100.0
        edges[0], edges[-1] = (_hertz(_mel(self.centres[k]) + s * apart) for k, s in ((0, -1), (-1, 1)))
        left, mid, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        triangles = np.maximum(np.minimum((f - left) / (mid - left), (right - f) / (right - mid)), 0)
        empty = triangles.sum(1) == 0  # a triangle narrower than the spectrum's lines takes the nearest line
        triangles[empty, np.abs(f[None] - mid[empty]).argmin(1)] = 1.0
        return np.asarray(triangles @ spectrum.T)


def _smooth(x: NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    """``y[k] = y[k-1] + (x[k] - y[k-1]) / tau'`` along the last axis, with ``tau' = 1 / (1 - exp(-1 / tau))``."""
    from scipy.signal import lfilter

    share = -np.expm1(-1 / tau)
    return np.asarray(lfilter([share], [1, share - 1], x, axis=-1))


def _erb_number(f: float) -> float:
    return float(21.4 * np.log10(1 + 4.37e-3 * f))


def _mel(f: float) -> float:
    return float(2595 * np.log10(1 + f / 700))


def _hertz(mel: float) -> float:
    return float(700 * (10 ** (mel / 2595) - 1))
