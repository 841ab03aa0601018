"""The kinds of files that a prediction writes for each image. Does not import torch, so that `--help` is fast."""

ENDINGS = {"masks": ".png", "confidence": ".png", "overlays": ".jpg", "probabilities": ".npz"}
"""Ending of the files of each kind, which is also the name of their folder."""
USUAL = ("masks", "confidence", "overlays")
"""What is written by default."""


def read_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds in a text such as `masks,confidence`, in the order of `ENDINGS`.

    Raises:
        ValueError: one is unknown or there is none.
    """
    given = [part.strip() for part in text.split(",")]
    if unknown := [part for part in given if part not in ENDINGS]:
        raise ValueError(f"outputs={text[:80]!r} holds {unknown[0]!r:.40}; possible are {', '.join(ENDINGS)}")
    return tuple(kind for kind in ENDINGS if kind in given)
