"""Sphinx configuration. `make docs` builds with warnings as errors."""

import spikeloom

project = "spikeloom"
author = "The spikeloom developers"
copyright = "2026, The spikeloom developers"  # noqa: A001  # Sphinx's name
release = version = spikeloom.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files outside docs/; a test checks that they exist
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say it in words
autodoc_default_options = {"members": True, "show-inheritance": True}
html_theme = "furo"
html_title = "spikeloom"
exclude_patterns = ["_build"]
