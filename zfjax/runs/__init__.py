"""A run's folder: claimed, trained in, read back, opened as a net with its pictures."""
