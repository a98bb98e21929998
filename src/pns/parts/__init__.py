"""The parts of a recipe, by room. `pns.recipe` joins them."""
