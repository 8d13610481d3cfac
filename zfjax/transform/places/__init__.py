"""Named places of any program, and the program cut at them."""
