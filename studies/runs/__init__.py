"""What an entry point does in one MLflow run: training, evaluation, calibration, prediction, comparison, report."""
