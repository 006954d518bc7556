"""One cell from its configuration to its scores; the sweeps and races around it."""
