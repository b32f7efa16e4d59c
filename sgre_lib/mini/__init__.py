"""The embedded dataset: scenes of drawn objects, their annotations, and weights that know single objects."""
