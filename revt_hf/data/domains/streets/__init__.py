"""A toy benchmark for domain generalisation: drawn streets, one layout in several styles."""

from revt_hf.data.domains.streets.paint import render
from revt_hf.data.domains.streets.styles import STYLES, UNSEEN_STYLES, Style

__all__ = ["STYLES", "UNSEEN_STYLES", "Style", "render"]
