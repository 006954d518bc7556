"""How files are written, read, locked and hashed; the names of those of a record."""
