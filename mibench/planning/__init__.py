"""From cells to a graph of stages, and in which order they come. Pure: no file, no process, no torch."""
