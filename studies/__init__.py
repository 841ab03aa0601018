"""Experiments: what MLflow knows of a training run. Imports `segmentation`, never the other way round."""
