"""The table of Kling's kinds of tasks: what Homing has to know about each product on a legacy path.

Documentation: https://kling.ai/document-api, the page of each product. A run time is the observed one, or that of a
similar product. ``kling_bodies`` has the fields of each create request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

OMNI_IMAGE: Final = "images/omni-image"
# The type of a product's results names its list in a reply, and its package in a price.
IMAGE: Final = "image"
VIDEO: Final = "video"
AUDIO: Final = "audio"
VOICE: Final = "voice"
ELEMENT: Final = "element"


@dataclass(frozen=True, slots=True, kw_only=True)
class KlingKind:
    """One kind.

    ``seconds`` is the usual run time. ``results`` are the types of its results. ``looks_up`` is false if no edition of
    its page offers a query by external ID. ``slots`` names the fields that say how many tasks at once a request counts
    as; without any it is one.
    """

    seconds: int
    results: tuple[str, ...]
    looks_up: bool = True
    slots: tuple[str, ...] = ()


_COUNT: Final = ("n",)

KINDS: Final[Mapping[str, KlingKind]] = MappingProxyType(
    {
        OMNI_IMAGE: KlingKind(seconds=40, results=(IMAGE,), slots=("n", "series_amount")),
        "images/generations": KlingKind(seconds=24, results=(IMAGE,), slots=_COUNT),
        "images/multi-image2image": KlingKind(seconds=40, results=(IMAGE,), slots=_COUNT),
        "images/editing/expand": KlingKind(seconds=40, results=(IMAGE,), slots=_COUNT),
        "images/kolors-virtual-try-on": KlingKind(seconds=40, results=(IMAGE,)),
        "videos/text2video": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/image2video": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/omni-video": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/multi-image2video": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/multi-elements": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/motion-control": KlingKind(seconds=300, results=(VIDEO,)),
        "videos/video-extend": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/advanced-lip-sync": KlingKind(seconds=120, results=(VIDEO,), looks_up=False),
        "videos/lip-sync": KlingKind(seconds=120, results=(VIDEO,), looks_up=False),
        "videos/effects": KlingKind(seconds=120, results=(VIDEO,)),
        "videos/avatar/image2video": KlingKind(seconds=120, results=(VIDEO,)),
        "audio/text-to-audio": KlingKind(seconds=40, results=(AUDIO,)),
        "audio/video-to-audio": KlingKind(seconds=40, results=(VIDEO, AUDIO)),
        "general/ai-multi-shot": KlingKind(seconds=40, results=(IMAGE,), looks_up=False),
        "general/custom-voices": KlingKind(seconds=9, results=(VOICE,)),
        "general/advanced-custom-elements": KlingKind(seconds=5, results=(ELEMENT,)),
    }
)
