"""Points over time, where they come from and which of them a chunk sees. May import: media, config, files."""

from ms_infer.tracks.tracks import Tracks

__all__ = ["Tracks"]
