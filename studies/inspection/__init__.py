"""What an inspection of a data set shows: its page, tables and metrics."""
