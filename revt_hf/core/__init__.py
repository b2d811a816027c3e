"""Errors, output folders, locks, processes, memory: what every other package uses."""
