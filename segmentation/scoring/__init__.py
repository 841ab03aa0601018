"""Logits and masks in, metrics out."""
