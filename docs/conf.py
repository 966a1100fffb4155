"""How Sphinx builds the guides and the API reference; see CONTRIBUTING.md."""

from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

import drope_jax

project = "drope_jax"
author = "the drope_jax authors"
release = drope_jax.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.apidoc",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
]
html_theme = "furo"
exclude_patterns = ["ladder"]
# In a type, `bytes` is Python's; two classes have attributes of that name.
suppress_warnings = ["ref.python"]

# Guides are Markdown, whose headings other pages link to.
myst_heading_anchors = 3

# Docstrings are Google's, with two additions: a section that names where a
# formula is from, and headings that group the attributes of a large class.
napoleon_custom_sections = [
  "Source",
  *(
    (heading, "params_style")
    for heading in (
      "How a step fits in memory",
      "How devices run it",
      "How it is optimized",
      "How it is watched",
      "What is measured",
      "What is read and for how long",
      "What is run",
      "What is saved",
      "What is trained",
    )
  ),
]
napoleon_use_ivar = True
default_role = "code"  # `x` is code, as in Markdown.
autodoc_default_options = {
  "members": True,
  "member-order": "bysource",
  "ignore-module-all": True,  # A name is on the page of the module it is of.
}
autodoc_typehints = "description"

# The pages of the reference are written to docs/api, a module each.
apidoc_modules = [
  {
    "path": "../drope_jax",
    "destination": "api",
    "exclude_patterns": ["../drope_jax/cli", "../drope_jax/assets"],
    "separate_modules": True,
    "module_first": True,
    "include_private": False,
  }
]


def setup(app: Sphinx) -> None:
  """Highlights gin files as Python, whose values they have."""
  app.add_lexer("gin", PythonLexer)
