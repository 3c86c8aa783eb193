"""Recipes: YAML files that name parts and their arguments. `load_recipe` reads, merges and checks one."""

from mtdiff.recipe.check import RULES, rule
from mtdiff.recipe.finding import find_recipe, shipped_recipes
from mtdiff.recipe.json_schema import json_schema
from mtdiff.recipe.places import InvalidRecipe, Place, Problem
from mtdiff.recipe.recipe import Recipe, load_recipe
from mtdiff.recipe.sections import (
    EXCLUDED,
    SCHEMA,
    SECTIONS,
    PartSection,
    RolesSection,
    Sections,
    SettingsSection,
    ValueSection,
)
from mtdiff.recipe.vary import Variant, variants

__all__ = [
    "EXCLUDED", "RULES", "SCHEMA", "SECTIONS",
    "InvalidRecipe", "PartSection", "Place", "Problem", "Recipe", "RolesSection", "Sections",
    "SettingsSection", "ValueSection", "Variant",
    "find_recipe", "json_schema", "load_recipe", "rule", "shipped_recipes", "variants",
]  # fmt: skip
