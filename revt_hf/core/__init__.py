"""Errors, outputs, processes and resources: used by every other package."""
