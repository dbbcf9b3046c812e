"""A live hand on the picture: from pointers, brush, camera stick and paths to the tracks of each chunk."""

from ms_infer.hand.dots import Kind
from ms_infer.hand.hand import Hand

__all__ = ["Hand", "Kind"]
