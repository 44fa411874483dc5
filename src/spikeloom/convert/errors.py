"""What conversions raise."""


class ConversionError(ValueError):
    """A model cannot be converted; the text says where, why and what to do."""
