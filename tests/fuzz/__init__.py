"""Fuzz tests: mangled and generated inputs must give a right result or a clear error message.

`make test` tries a few inputs, always the same ones. `make fuzz` tries 100,000 others and prints the seed that repeats
them: `make fuzz FUZZ_SEED=5`.
"""
