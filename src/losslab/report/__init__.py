"""One HTML page for a sweep, from records alone: it opens without a server and makes no network requests."""
