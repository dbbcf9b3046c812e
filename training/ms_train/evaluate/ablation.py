"""What each input of the track head is worth to one checkpoint: inputs are removed, nothing is trained again."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ms_train.data.clips import Clips, Rendered
from ms_train.evaluate.measure import stream_clips
from ms_train.stages.refine import Decoder
from ms_train.students import Network, silence


def ids_only(clips: Clips) -> Clips:
    """The moved first frame replaced by the still one, valid nowhere; ids stay along the tracks."""
    silent = torch.ones(clips.latents.shape[:2], dtype=torch.bool)
    return dataclasses.replace(silence(clips, silent), visible=clips.visible)


def content_only(clips: Clips) -> Clips:
    """No ids anywhere; the moved first frame stays."""
    return dataclasses.replace(clips, visible=torch.zeros_like(clips.visible))


def ablated_rows(network: Network, decoder: Decoder, data: Rendered) -> dict[str, Tensor]:
    """Frames [B, T, 3, H, W] by what the track head is given, all through the decoder alone."""
    clips = data.clips
    variants = {
        "ids and content": clips,
        "ids only": ids_only(clips),
        "content only": content_only(clips),
        "neither": content_only(ids_only(clips)),
    }
    return {"truth": data.frames} | {
        name: decoder.alone(stream_clips(network, variant)) for name, variant in variants.items()
    }
