"""Recipes: typed, validated YAML."""
