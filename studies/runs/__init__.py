"""One piece of work as one MLflow run: training, evaluation, calibration, prediction, comparison."""
