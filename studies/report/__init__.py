"""The report: runs recorded in MLflow as one page. Only reads."""
