"""What all of `studies` uses: errors, redaction, tables, commands to print. Nothing here writes to MLflow."""
