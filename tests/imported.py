"""Imported once by the process that tests copy: an index of the package, for its copies."""

from mezzotint.recipe.signatures import index

index()
