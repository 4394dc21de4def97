"""The rewrite: the order of its steps, the walk, the outputs, the claim, the new model."""
