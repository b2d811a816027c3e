"""Tensors in files: names, reading, writing."""
