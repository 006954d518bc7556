"""Hydra at the edge: `conf/` and the command line become a checked `Config`."""
