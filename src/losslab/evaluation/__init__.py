"""Scores of a model on benchmarks: problems, engines, verdicts, records. Knows nothing of training."""
