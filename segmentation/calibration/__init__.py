"""Post-hoc calibration: a correction of the logits, fitted on held-out images."""
