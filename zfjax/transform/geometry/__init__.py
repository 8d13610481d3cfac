"""Where each value of a program looks in the images."""
