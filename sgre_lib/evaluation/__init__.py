"""Scores to metrics, with the intervals that say how far they can be trusted."""
