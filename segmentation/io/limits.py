"""Limits on image files. This module imports nothing, so that `--help` is fast."""

MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded. This is Pillow's own limit. The largest single photographs have
150 million pixels; an image at the limit takes 0.7 GB."""
