"""All merge methods, by name in ``METHODS``."""

# Importing the modules registers their methods, in the order of help texts.
from revt_hf.merging import means, task_vectors
from revt_hf.merging.registry import METHODS, Array, Method, Parameter, checked_parameters

__all__ = [
    "METHODS",
    "Array",
    "Method",
    "Parameter",
    "checked_parameters",
    "means",
    "task_vectors",
]
