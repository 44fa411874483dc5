"""What every data set has, whatever its samples are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from .downloads import Download, Progress
from .file_samples import FileSamples, Options, ToTensor
from .samples import Samples, Transform

Split = Literal["train", "validation", "test"]


class DataSet(Protocol):
    """A data set: its description, and the calls that load, fetch and check its files.

    ``sample`` is the shape of a sample, ``counts`` the number of samples of each published split (None where it is not
    known for sure). ``rule`` says how train and test are told apart, ``timed`` whether a sample has a dimension of
    time, ``recorded`` whether samples are recordings, of which ``frames`` makes tensors.

    >>> import spikeloom as sl
    >>> cifar: sl.data.DataSet = sl.data.describe("cifar10")
    >>> cifar.sample, cifar.counts["train"], cifar.timed, cifar.recorded
    ('[3, 32, 32]', 50000, False, False)
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def sample(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def counts(self) -> Mapping[str, int | None]: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def timed(self) -> bool: ...
    @property
    def recorded(self) -> bool: ...
    @property
    def downloads(self) -> tuple[Download, ...]: ...

    def load(
        self,
        split: Split,
        root: Path,
        *,
        frames: ToTensor | None,
        transform: Transform | None,
        seed: int,
        options: Options | None,
    ) -> Samples | FileSamples:
        """The samples of a split."""

    def here(self, root: Path) -> bool:
        """Whether all files can be found below ``root``."""

    def files(self, root: Path) -> dict[str, str]:
        """Checksums by which two runs can tell whether they had the same files."""

    def fetch(self, root: Path, *, progress: Progress | None) -> Path:
        """Downloads what is missing and returns the folder of the files."""

    def verify(self, root: Path, *, progress: Progress | None) -> list[str]:
        """The problems of the files, a line for each."""
