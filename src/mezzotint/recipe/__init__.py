"""Recipes: what a YAML file may say, read from the signatures of the classes that it names."""
