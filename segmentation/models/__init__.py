"""Segmentation models: uint8 images in, logits out; and where their weights start."""
