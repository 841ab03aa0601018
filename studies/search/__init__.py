"""Hyperparameter studies with Optuna: the only place that knows it."""
