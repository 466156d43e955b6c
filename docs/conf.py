"""How the site of the documentation is built: sphinx-build -W docs site."""

import re

import losspath

project = "losspath"
author = "The losspath authors"
project_copyright = "The losspath authors"
version = release = losspath.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["study/runs", "study/results", "Thumbs.db"]

# Pages read well in the repository too: their links go to files beside them.
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "py:obj"  # a name in single backticks is a link where there is such a thing

html_theme = "furo"
html_title = f"losspath {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False


def _escaped(app, what, name, thing, options, lines):
    """Bars around what has a magnitude are no substitutions."""
    parts = [re.split(r"(``.*?``)", line) for line in lines]
    for number, line in enumerate(parts):
        lines[number] = "".join(
            part if part.startswith("``") else part.replace("|", "\\|") for part in line
        )


def _public(app, what, name, thing, options, signature, returns):
    """Arguments that begin with an underscore are nobody's."""
    if signature:
        return re.sub(r", _\w+=[^,)]*", "", signature), returns
    return None


def setup(app):
    app.connect("autodoc-process-docstring", _escaped)
    app.connect("autodoc-process-signature", _public)
