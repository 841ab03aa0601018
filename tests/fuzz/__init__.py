"""What comes from outside, made up and mangled: every input is refused in a clear sentence, or answered rightly.

`make test` tries a few inputs, always the same ones; `make fuzz` tries 100,000 others, and prints the seed that gives
them again: `make fuzz FUZZ_SEED=5`.
"""
