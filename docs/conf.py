"""How the documentation is built: `make docs`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import mtdiff

project = "mtdiff"
author = copyright = "the mtdiff authors"
release = version = mtdiff.__version__

extensions = ["myst_parser", "parts_pages", "mathml"]
exclude_patterns = ["_build"]
root_doc = "index"
source_suffix = {".md": "markdown"}
nitpicky = False  # signatures name many classes of torch and numpy, which are documented elsewhere

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

add_module_names = False
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
highlight_language = "text"
smartquotes = False  # "mish" is a word of YAML

html_theme = "furo"
html_title = f"mtdiff {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["mtdiff.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_last_updated_fmt = None
pygments_style, pygments_dark_style = "friendly", "github-dark"
