"""Pictures and videos in and out, as uint8 RGB arrays. May import: errors."""

from ms_infer.media.notebook import Clip
from ms_infer.media.overlay import draw_tracks
from ms_infer.media.pictures import MAX_PIXELS, image_size, load_image
from ms_infer.media.video import open_video, read_video
from ms_infer.media.writer import VideoWriter
from ms_infer.media.writers import open_writer

__all__ = [
    "MAX_PIXELS",
    "Clip",
    "VideoWriter",
    "draw_tracks",
    "image_size",
    "load_image",
    "open_video",
    "open_writer",
    "read_video",
]
