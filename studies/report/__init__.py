"""What MLflow holds of runs, written as one page."""
