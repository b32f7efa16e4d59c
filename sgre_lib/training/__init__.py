"""A run from settings to a finished experiment: loop, state, processes, recipe, losses."""
