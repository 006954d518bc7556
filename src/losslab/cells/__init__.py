"""One cell from its configuration to its scores; the plan and the sweep around it."""
