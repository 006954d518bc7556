"""Estimates with their intervals, and pass@k; arrays of numbers alone."""
