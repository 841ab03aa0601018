"""How fast this project is, beside the limit of the machine and beside its peers: `python -m benchmarks --help`."""
