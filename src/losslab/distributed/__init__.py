"""The processes that run a cell together: how they start, agree and end."""
