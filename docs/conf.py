import jaxkit

project = "jaxkit"
author = "The jaxkit authors"
copyright = "The jaxkit authors"
version = release = jaxkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
]
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence"]
nb_execution_mode = "cache"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "py:obj"
nitpicky = False
exclude_patterns = ["_build", "jupyter_execute"]

html_theme = "furo"
html_title = f"jaxkit {release}"
