"""What becomes of the head: windows, their common grid, FC layers as Conv, the fallback per window."""
