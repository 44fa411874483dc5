"""replay: what a function launches on a device, recorded once and from then on launched at once.

Python and torch take some 10 us to launch an operator, and a small network launches hundreds in a step, while a CUDA
graph launches all of them in one call. It launches exactly what was recorded: the same kernels, on the same memory,
with the same numbers from Python. Whoever records (:mod:`spikeloom.core.captures`) has to know when that is no longer
what a call would do.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch


class RecordError(RuntimeError):
    """A function did what cannot be recorded; the message is that of torch."""


class Recorder(Protocol):
    """What records on one device. There is a stand-in for tests, which records operators on a CPU."""

    device: torch.device

    def warm(self, run: Callable[[], Any], *, checked: bool) -> Any:
        """``run()`` as it will be recorded; where ``checked``, an operator that waits for the device raises."""

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """The result of ``run()``, whose tensors each call of the returned function computes anew where they lie."""

    def enter(self) -> None:
        """Has the current stream wait for what another one did with memory of this recorder."""

    def random_state(self) -> Any:
        """The state of the device's generator."""

    def set_random_state(self, state: Any) -> None:
        """Sets the generator to such a state."""


class CudaGraphs:
    """Records CUDA graphs that share one pool of memory, on a stream of their own.

    Graphs of one pool reuse the memory of each other: while what one has computed is still needed, no other may run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self._begin()
        self._last = torch.cuda.current_stream(self.device)

    def _begin(self) -> None:
        self._stream, self._pool = torch.cuda.Stream(self.device), torch.cuda.graph_pool_handle()

    def warm(self, run: Callable[[], Any], *, checked: bool) -> Any:
        """Runs on the stream of the graphs, for which libraries then have all that they make at their first call."""
        with torch.cuda.device(self.device), _refusing_to_wait() if checked else contextlib.nullcontext():
            now = torch.cuda.current_stream()
            self._stream.wait_stream(now)
            with torch.cuda.stream(self._stream):
                found = run()
            now.wait_stream(self._stream)
        return found

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Captures a graph. Other threads may use the device meanwhile, as those that load data do."""
        if not self._graphs:  # the allocator takes no more captures into a pool all of whose graphs are gone
            self._pool = torch.cuda.graph_pool_handle()  # the stream stays: libraries keep memory for each
        made, problem = torch.cuda.CUDAGraph(), None
        with torch.cuda.device(self.device):
            now = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(made, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    try:
                        found = run()
                    except Exception as error:
                        problem = error
                        raise
            except Exception as error:
                self._begin()  # the allocator may still take the old pool for one that is being captured
                self._heal()
                raise RecordError(_first_line(problem or error)) from error
            finally:
                torch.cuda.set_stream(now)  # which torch leaves undone where ending the capture raises
        self._graphs.add(made)
        return found, made.replay

    def _heal(self) -> None:
        """Captures something that succeeds: one that failed leaves torch's generator in the belief that it goes on."""
        made = torch.cuda.CUDAGraph()
        captured = torch.cuda.graph(made, pool=self._pool, stream=self._stream)
        with contextlib.suppress(Exception), captured:  # where this fails too, nothing more can be done
            torch.zeros((), device=self.device)
        self._begin()

    def enter(self) -> None:
        """Orders streams only where the current one is another than the last time."""
        now = torch.cuda.current_stream(self.device)
        if now != self._last:
            now.wait_stream(self._last)
            self._last = now

    def random_state(self) -> Any:
        """The generator's state, which is on the host."""
        return torch.cuda.get_rng_state(self.device)

    def set_random_state(self, state: Any) -> None:
        """Sets it back."""
        torch.cuda.set_rng_state(state, self.device)


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaGraphs}
"""What records on a kind of device."""


def can_record(device: torch.device) -> bool:
    """Whether anything records on a device."""
    return device.type in RECORDERS


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """An operator that copies to the host or from Python's memory raises, rather than within a capture.

    A capture that fails leaves torch's allocator and generator in states that nobody puts right.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")  # what it finds suffices
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        raise RecordError(_first_line(error)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
