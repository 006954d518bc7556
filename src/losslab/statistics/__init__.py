"""Means and differences with their intervals."""
