"""The score map of an image larger than memory: readers, tiles, writers."""
