"""The description of each data set: where it comes from, its classes and its splits."""
