"""Trained models as MLflow keeps them: loading, the flavor, the served model."""
