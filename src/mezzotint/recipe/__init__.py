"""Recipes: what a YAML file may say, read from the signatures of the classes that it names."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.recipe.component import Component as Component
    from mezzotint.recipe.component import factory as factory
    from mezzotint.recipe.reading import shipped as shipped
    from mezzotint.recipe.recipe import Recipe as Recipe
    from mezzotint.recipe.recipe import read_recipe as read_recipe
    from mezzotint.recipe.recipe import resolve_recipe as resolve_recipe
    from mezzotint.recipe.schema import RecipeError as RecipeError

__getattr__, __dir__ = lazy_names(__name__, __file__)
