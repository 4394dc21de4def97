"""What is read off the original before anything is rewritten."""
