"""Whole experiments: members, merges, ensembles and their evaluation, as a graph of steps."""
