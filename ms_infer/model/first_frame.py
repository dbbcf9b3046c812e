"""What the image slot of image-to-video models holds after the first latent frame: the encoding of grey frames."""

from __future__ import annotations

from torch import Tensor

from ms_infer.config import GREY_LATENT_FRAMES
from ms_infer.config import RGB_FRAMES_PER_LATENT_FRAME as STRIDE
from ms_infer.model.vae import State, Vae

GREY = 0.5


class GreyTail:
    """Latent frames of `[image, grey, grey, ...]`, encoded one after the other as far as they are asked for.

    An autoencoder forgets: from latent frame `GREY_LATENT_FRAMES` on all are alike, and its state is let go of.
    """

    def __init__(self, vae: Vae, image: Tensor) -> None:
        """image: `[B, 3, H, W]` in 0..1, in the dtype and on the device of the autoencoder."""
        self._vae, self._image = vae, image
        state = vae.encoder_state(len(image), *image.shape[-2:], device=image.device, dtype=image.dtype)
        self._state: State
        first, self._state = vae.encode(image[:, None], state, opening=True)
        self._latents = [first[:, 0]]

    def latent(self, index: int) -> Tensor:
        """Latent frame `index` from the image on, `[B, C, h, w]`."""
        place = min(index, GREY_LATENT_FRAMES)
        while len(self._latents) <= place:
            self._latents.append(self._next())
        return self._latents[place]

    def _next(self) -> Tensor:
        grey = self._image.new_full((), GREY).expand_as(self._image)
        frames = grey[:, None].expand(-1, STRIDE, -1, -1, -1)
        latents, self._state = self._vae.encode(frames, self._state, opening=False)
        if len(self._latents) == GREY_LATENT_FRAMES:
            self._state = []
        return latents[:, 0]
