"""Scores of a split: what a run stores of them, and what can be compared."""
