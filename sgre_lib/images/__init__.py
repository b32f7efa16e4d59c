"""Photos as batches of tensors: reading, augmenting, keeping, ordering."""
