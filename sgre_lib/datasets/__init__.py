"""Raw datasets to prepared folders, and the label embeddings that belong to them."""
