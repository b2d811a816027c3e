"""Scores as tables, predictions as pictures, and both as one self-contained HTML page."""
