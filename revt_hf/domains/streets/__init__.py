"""A toy benchmark for domain generalisation: drawn streets, one layout in several looks."""

from revt_hf.domains.streets.looks import LOOKS, UNSEEN_LOOKS, Look
from revt_hf.domains.streets.paint import render

__all__ = ["LOOKS", "UNSEEN_LOOKS", "Look", "render"]
