"""Prediction of unlabelled images: inputs, predictor, outputs."""
