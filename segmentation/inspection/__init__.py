"""What is in a data set before training: statistics, faults, equal images, and what to set for such data."""
