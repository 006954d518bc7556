"""What a sweep would do and need, from its configurations alone: memory, hours, disk space, and what it can show."""
