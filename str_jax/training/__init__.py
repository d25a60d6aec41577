"""Training, evaluation and reports of sparse networks."""
