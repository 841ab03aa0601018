"""Trained models in MLflow: loading by name, logging, and the served model."""
