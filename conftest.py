"""For tests and doctests alike: what one of them draws is closed after it, so that no later one is warned of too many
open pictures."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _pictures_closed() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
