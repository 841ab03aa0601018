"""Predicts unlabelled images: finds them, runs the model in a pipeline, and writes masks and confidence maps."""
