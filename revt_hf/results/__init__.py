"""Scores as tables, predictions as images, and both as one self-contained HTML page."""
