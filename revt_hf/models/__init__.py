"""Segmentation models: building, loading, converting."""
