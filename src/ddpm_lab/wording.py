"""Words for people."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """1 image, 2 images, 3 classes."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}{'es' if noun.endswith('s') else 's'}"
