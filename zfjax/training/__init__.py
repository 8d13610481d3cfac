"""A training run: state, step, loop, checkpoints, metrics, scores."""
