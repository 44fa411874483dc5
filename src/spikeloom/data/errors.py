"""The error of this sub-package."""


class DataError(ValueError):
    """A data file is missing, damaged, or not what its name says."""
