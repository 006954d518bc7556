"""Programs that models write: isolation, languages, and the protocols of the benchmarks that run them."""
