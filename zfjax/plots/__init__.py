"""One function a figure: arrays in, a figure out, which notebooks draw as a cell's last value. Only `files` writes."""
