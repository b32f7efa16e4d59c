"""Where the labels look: maps, which photos get one, and how well maps find boxes."""
