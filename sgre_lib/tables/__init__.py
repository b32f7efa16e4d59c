"""Tables of the paper: declared in TOML, planned, run through the notebooks, judged, verified."""
