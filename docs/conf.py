"""The site's settings for Sphinx, whose source is the checkout: `make docs`."""

from importlib.metadata import version as installed_version

project = "crossrank"
version = release = installed_version("crossrank")
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "benchmarks/README.md", "models/README.md", "models/*/README.md"]
exclude_patterns = ["README.md"]  # the page of the code host; docs/index is the site's
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # links to headings, as code hosts make them
autodoc_member_order = "bysource"
autodoc_mock_imports = ["apache_beam", "pyarrow", "ray"]  # whose classes the pages do not show
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
html_theme = "furo"
html_title = "crossrank"
