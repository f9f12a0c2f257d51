"""The bodies of the create requests in Kling's newer dialects, and the table of all bodies by kind.

``kling_order`` checks a body against its class. /openapi.json and docs/reference/kling-kinds.md are made from them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from msgspec import Meta

from tracker.providers.kling_fields import (
    CallbackUrl,
    ElementId,
    ExternalId,
    Media,
    NewPrompt,
    Part,
    Required,
)
from tracker.providers.kling_legacy_bodies import (
    AdvancedLipSyncBody,
    AiMultiShotBody,
    AvatarBody,
    CustomElementBody,
    CustomVoiceBody,
    EffectsBody,
    ExpandBody,
    GenerationsBody,
    Image2VideoBody,
    LipSyncBody,
    MotionControlBody,
    MultiElementsBody,
    MultiImage2ImageBody,
    MultiImage2VideoBody,
    OmniImageBody,
    OmniVideoBody,
    Text2VideoBody,
    TextToAudioBody,
    VideoExtendBody,
    VideoToAudioBody,
    VirtualTryOnBody,
)


class Options(Part, kw_only=True):
    """The options of the newer dialects. Their names are the same as at the top of an older body."""

    external_task_id: ExternalId | None = None
    callback_url: CallbackUrl | None = None


class NewBody(Part, kw_only=True):
    """The fields of every create request with the model in its path, and of those below ``/solutions``."""

    settings: dict[str, Any] | None = None
    options: Options | None = None


class Content(Part, kw_only=True):
    """One input: a prompt, a picture, a video, an element, a voice or a text. Its ``type`` says which."""

    type: Required
    text: NewPrompt | None = None
    url: Media | None = None
    element_id: ElementId | None = None
    voice_id: str | None = None


class SolutionContent(Part, kw_only=True):
    """One input of a solution. Some have a text in another form than a prompt."""

    type: Required
    text: Any = None
    url: Media | None = None
    voice_id: str | None = None


class TextToVideoBody(NewBody, kw_only=True):
    """``text-to-video``."""

    prompt: NewPrompt


class ContentsBody(NewBody, kw_only=True):
    """The other kinds of the newer dialects."""

    contents: Annotated[list[Content], Meta(min_length=1)]


class ImageToVideoBody(ContentsBody, kw_only=True):
    """``image-to-video``."""


class NewOmniVideoBody(ContentsBody, kw_only=True):
    """``omni-video``."""


class NewMotionControlBody(ContentsBody, kw_only=True):
    """``motion-control``."""


class SolutionBody(NewBody, kw_only=True):
    """The kinds below ``/solutions``."""

    contents: Annotated[list[SolutionContent], Meta(min_length=1)]


class VirtualTryOnSolutionBody(SolutionBody, kw_only=True):
    """``solutions/virtual_try_on``."""


class ClothingDupeBody(SolutionBody, kw_only=True):
    """``solutions/e-commerce/clothing_dupe``."""


class GoodsStudioBody(SolutionBody, kw_only=True):
    """``solutions/e-commerce/goods_studio``."""


class TalkingAgentBody(SolutionBody, kw_only=True):
    """``solutions/talking_agent``."""


class DramaSubtitleBody(SolutionBody, kw_only=True):
    """``solutions/drama_subtitle``."""


BODIES: Final[Mapping[str, type[Part]]] = MappingProxyType(
    {
        "images/omni-image": OmniImageBody,
        "images/generations": GenerationsBody,
        "images/multi-image2image": MultiImage2ImageBody,
        "images/editing/expand": ExpandBody,
        "images/kolors-virtual-try-on": VirtualTryOnBody,
        "videos/text2video": Text2VideoBody,
        "videos/image2video": Image2VideoBody,
        "videos/omni-video": OmniVideoBody,
        "videos/multi-image2video": MultiImage2VideoBody,
        "videos/multi-elements": MultiElementsBody,
        "videos/motion-control": MotionControlBody,
        "videos/video-extend": VideoExtendBody,
        "videos/advanced-lip-sync": AdvancedLipSyncBody,
        "videos/lip-sync": LipSyncBody,
        "videos/effects": EffectsBody,
        "videos/avatar/image2video": AvatarBody,
        "audio/text-to-audio": TextToAudioBody,
        "audio/video-to-audio": VideoToAudioBody,
        "general/ai-multi-shot": AiMultiShotBody,
        "general/custom-voices": CustomVoiceBody,
        "general/advanced-custom-elements": CustomElementBody,
        "text-to-video": TextToVideoBody,
        "image-to-video": ImageToVideoBody,
        "omni-video": NewOmniVideoBody,
        "motion-control": NewMotionControlBody,
        "solutions/virtual_try_on": VirtualTryOnSolutionBody,
        "solutions/e-commerce/clothing_dupe": ClothingDupeBody,
        "solutions/e-commerce/goods_studio": GoodsStudioBody,
        "solutions/talking_agent": TalkingAgentBody,
        "solutions/drama_subtitle": DramaSubtitleBody,
    }
)
