"""Sphinx configuration. `make docs` builds with warnings as errors."""

import sys
from pathlib import Path

import spikeloom

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "spikeloom"
author = "The spikeloom developers"
copyright = "2026, The spikeloom developers"  # noqa: A001  # Sphinx's name
release = version = spikeloom.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "spikeloom_docs"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files outside docs/; a test checks that they exist
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say it in words
add_module_names = False
napoleon_use_rtype = False  # what stands before a colon under "Returns" need not be a type
nitpicky = True
nitpick_ignore_regex = [
    # Other packages, whose lists of names would have to be fetched.
    (r"py:.*", r"(torch|numpy|pathlib|types|collections|matplotlib)\..*|True|False|None"),
    # Types of fields that nobody outside has to do with.
    (r"py:class", r"spikeloom\.(core|data)\.\w+(\.\w+)+"),
]
exclude_patterns = ["_build", "_ext", "notebooks"]
outside_menu = ["findings"]  # linked from explanation

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "spikeloom"
html_short_title = "Spiking neural networks in PyTorch: write one time step, train at kernel speed"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_copy_source = False
