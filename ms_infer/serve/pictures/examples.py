"""Pictures to begin with: those of the demo model, and a balloon that is drawn here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ms_infer.demo import default_example, demo_examples
from ms_infer.errors import ConfigError
from ms_infer.media import load_image

DRAWN = "balloon"
UNIT = 512  # height at which it is drawn, before it is made small


class Examples:
    """The pictures by name; the first one is shown at first."""

    def __init__(self) -> None:
        examples = demo_examples()
        self._files = {example.image.stem: example.image for example in examples}
        self.prompts = {example.image.stem: example.prompt for example in examples}
        """What each picture is to be told with, where it is known."""
        first = default_example().image.stem
        self.names = (first, *(name for name in self._files if name != first), DRAWN)

    def picture(self, name: str, height: int, width: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], the same every time; ConfigError for an unknown name."""
        if name not in self.names:
            raise ConfigError(f"there is no example of that name; there are {', '.join(self.names)}")
        source = self._files.get(name) or draw_balloon(round(UNIT * width / height))
        return load_image(source, height, width)


def draw_balloon(width: int) -> Image.Image:
    """A hot-air balloon in the middle of a sky over hills, UNIT pixels high."""
    fade = np.linspace(0, 1, UNIT)[:, None, None]
    sky = np.array((94, 160, 222)) * (1 - fade) + np.array((214, 234, 246)) * fade
    image = Image.fromarray(np.broadcast_to(sky, (UNIT, width, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for height, phase, colour in ((400, 0.4, (122, 168, 128)), (448, 2.2, (82, 138, 92))):
        x = np.arange(0, width + 8, 8)
        line = list(zip(x.tolist(), (height + 18 * np.sin(x / 100 + phase)).tolist(), strict=True))
        pen.polygon([*line, (width, UNIT), (0, UNIT)], fill=colour)
    middle, top, bottom = width / 2, 120, 252
    pen.polygon([(middle - 50, 230), (middle + 50, 230), (middle + 16, 290), (middle - 16, 290)], fill=(196, 52, 44))
    for across, colour in ((66, (226, 66, 54)), (46, (250, 222, 150)), (38, (226, 66, 54)), (8, (250, 222, 150))):
        pen.ellipse((middle - across, top, middle + across, bottom), fill=colour)
    pen.rounded_rectangle((middle - 20, 290, middle + 20, 318), 5, fill=(138, 92, 56), outline=(92, 60, 38), width=4)
    return image
