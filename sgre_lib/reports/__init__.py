"""Executed notebooks as accessible offline HTML."""
