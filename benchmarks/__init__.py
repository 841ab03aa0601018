"""Benchmarks of speed relative to the machine's limit and to other implementations: `python -m benchmarks --help`."""
