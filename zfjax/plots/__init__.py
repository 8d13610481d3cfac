"""One function a figure: arrays in, a matplotlib Figure out. Only `files` writes."""
