"""crossrank.triton: what Triton's Python backend runs of a repository that ``export-model --triton`` has written.

The models' ``model.py`` there imports it; it needs nothing beside crossrank, since the backend brings its own module.
"""

from ._backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
