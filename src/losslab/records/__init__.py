"""The folder of a cell: its name, its contents, its lock."""
