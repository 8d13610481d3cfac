"""Datasets: sources of pictures, the scan, the pipeline, and crops on the device."""
