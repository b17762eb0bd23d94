"""Sphinx: `make docs`. Nothing is fetched; warnings are errors."""

import re

import docutils.nodes
import latex2mathml.converter

import zograd

project = "zograd"
author = "The zograd authors"
copyright = author
release = version = zograd.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_generated", "scripts"]
nitpicky = False
default_role = "py:obj"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath", "colon_fence"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "zograd"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b6ca8", "color-brand-content": "#1b6ca8"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def escape_shapes(app, what, name, thing, options, lines) -> None:
    """``(n, *out)`` in a docstring is a shape, not the start of emphasis."""
    for number, line in enumerate(lines):
        pieces = line.split("``")
        pieces[::2] = [re.sub(r"(?<=[(\s])\*(?=[a-z]+[,)])", r"\\*", piece) for piece in pieces[::2]]
        lines[number] = "``".join(pieces)


def formula(translator, node) -> None:
    """A formula as MathML, which browsers draw by themselves: no script is fetched to read a page."""
    block = isinstance(node, docutils.nodes.math_block)
    mathml = latex2mathml.converter.convert(node.astext(), display="block" if block else "inline")
    translator.body.append(f'<div class="formula">{mathml}</div>' if block else mathml)
    raise docutils.nodes.SkipNode


def setup(app) -> None:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("autodoc-process-docstring", escape_shapes)
