"""Experiments: what MLflow knows of a training run. Imports `segmentation`, never the other way round."""

import os

# MLflow would draw a bar for every small file that is read back.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
