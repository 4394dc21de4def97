"""What a rewritten model says of itself, and how it is read back."""
