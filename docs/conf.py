"""The site: `sphinx-build -W -b html docs docs/_build`. Needs no network."""

import pathlib
import re
import runpy
import sys

DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

project = "zfjax"
author = "The zfjax authors"
project_copyright = "The zfjax authors, Apache-2.0"
version = release = runpy.run_path(str(DOCS.parent / "zfjax" / "version.py"))["__version__"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docstrings",
    "generated",
]
exclude_patterns = ["_build", "_ext"]

myst_heading_anchors = 3  # [text](page.md#heading), as on GitHub
default_role = "py:obj"  # `name` in docstrings: a link where it is documented, else code
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!zfjax\.[\w.]+$).*"),  # code, and names of other libraries: only our own must resolve
]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_use_legacy_class_based = False
autosummary_generate = False
napoleon_numpy_docstring = False
maximum_signature_line_length = 72
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

smartquotes_action = "D"  # dashes alone; quotes are meant as typed

html_theme = "furo"
html_title = f"zfjax {release}"
html_static_path = ["_static"]
html_css_files = ["zfjax.css"]
html_theme_options = {
    "source_repository": "https://github.com/zfjax/zfjax/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_copy_source = False
copybutton_prompt_text = re.escape(">>> ") + "|" + re.escape("... ")
copybutton_prompt_is_regexp = True
