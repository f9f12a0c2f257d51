"""The table of Kling's kinds of tasks: what Homing has to know about each product.

Documentation: https://kling.ai/document-api, the page of each product. A run time is the observed one, or that of a
similar product. ``kling_bodies`` has the fields of each create request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

OMNI_IMAGE: Final = "images/omni-image"
TRY_ON: Final = "solutions/virtual_try_on"
# The dialect of a product: on the paths below /v1, in the new standard (the model is in the path), or below /solutions.
Dialect = Literal["legacy", "new", "solutions"]
# The type of a product's results names its list in a reply, and its package in a price.
IMAGE: Final = "image"
VIDEO: Final = "video"
AUDIO: Final = "audio"
VOICE: Final = "voice"
ELEMENT: Final = "element"


@dataclass(frozen=True, slots=True, kw_only=True)
class KlingKind:
    """One kind.

    ``dialect`` is that of its paths and bodies. ``seconds`` is the usual run time. ``results`` are the types of its
    results. ``looks_up`` is false if the table of paths on its page offers no query by external ID. ``slots`` names the
    fields that say how many of the account's slots a request takes; without any it is one, or not documented.
    """

    seconds: int
    results: tuple[str, ...]
    looks_up: bool = True
    slots: tuple[str, ...] = ()
    dialect: Dialect = "legacy"

    @property
    def is_legacy(self) -> bool:
        return self.dialect == "legacy"

    @property
    def lists_at(self) -> str:
        """The path of queries and lists, which all kinds of a newer dialect share."""
        return "/solutions" if self.dialect == "solutions" else "/tasks"


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
        "text-to-video": KlingKind(seconds=120, results=(VIDEO,), dialect="new"),
        "image-to-video": KlingKind(seconds=120, results=(VIDEO,), dialect="new"),
        "omni-video": KlingKind(seconds=120, results=(VIDEO,), dialect="new"),
        "motion-control": KlingKind(seconds=300, results=(VIDEO,), dialect="new"),
        TRY_ON: KlingKind(seconds=10, results=(IMAGE,), dialect="solutions"),
        "solutions/e-commerce/clothing_dupe": KlingKind(
            seconds=600, results=("product_image", "model_images", "product_video"), dialect="solutions"
        ),
        "solutions/e-commerce/goods_studio": KlingKind(seconds=600, results=(VIDEO,), dialect="solutions"),
        "solutions/talking_agent": KlingKind(seconds=600, results=(VIDEO,), dialect="solutions"),
        "solutions/drama_subtitle": KlingKind(
            seconds=1140, results=("subbed_video", "srt", "ass"), dialect="solutions"
        ),
    }
)
