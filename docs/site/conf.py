"""Sphinx's settings for the web edition; `make site` calls it with the pages that tools/website has prepared."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import llmbook  # noqa: E402

project = "llmbook"
author = copyright = "The llmbook authors"
version = release = llmbook.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tools.website.extension"]
exclude_patterns = ["extra", "static", "templates"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

html_theme = "furo"
html_title = "llmbook"
html_css_files = ["book.css"]
html_js_files = [("cards.js", {"defer": "defer"}), ("book.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_domain_indices = False
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_sidebars = {"**": ["sidebar/brand.html", "languages.html", "sidebar/search.html", "sidebar/scroll-start.html",
                        "sidebar/navigation.html", "sidebar/scroll-end.html"]}
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#005a8c", "color-brand-content": "#005a8c",
                            "color-brand-visited": "#5a4380"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ec", "color-brand-content": "#7cc4ec",
                           "color-brand-visited": "#c3a9e6"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_param = False  # keeps "batch_size, n_heads: …" in one entry
napoleon_use_rtype = False
# Docstrings are plain text with single backticks around names, not reStructuredText.
default_role = "code"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "docutils"]
nitpicky = False

epub_basename = "llmbook"
epub_title = "llmbook: a language model from scratch, in notebooks that run"
epub_show_urls = "no"
epub_tocdepth = 2
epub_css_files = ["ebook.css"]
epub_exclude_files = ["search.xhtml", "genindex.xhtml", ".nojekyll"]
epub_use_index = False
