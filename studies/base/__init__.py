"""What all parts of `studies` need and MLflow does not know: commands to print, redaction, errors, Markdown."""
