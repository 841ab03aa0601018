"""Segmentation models: architectures, normalized input, and starting weights."""
