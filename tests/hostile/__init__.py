"""Bad inputs of every kind through every entry point, under one rule.

A case ends with one sentence that names the key or the file, or with the right result. It prints no traceback, ends
within its limit, writes nothing outside of its folder, loses nothing that was finished, and runs no code of its input.

    make hostile        1,000 cases and more; counts in results/benchmarks/hostile.md

tests/test_hostile.py takes a sample of them.
"""
