"""Clean up after processes that were killed: close their runs, check files, send their records."""
