"""What is found out about the original: what pools are, which size a baked size means, which weights sum to 1."""
