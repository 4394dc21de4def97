"""How a tensor lies: its axes, what they read of the image, where it comes from."""
