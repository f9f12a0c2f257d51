"""The types of the fields in Kling's create requests, and the parts that several bodies share.

Documentation: https://kling.ai/document-api, the page of each product, in every edition since 2025, and the resellers'
copies. These documents disagree about models, fields and limits. So a type refuses only what all of them forbid: it
has the loosest bound of a number or a length, it requires only what all of them require, and a word (a mode, a model)
is any text, because new ones come each quarter. Fields that are not listed go to the provider unchanged.

``kling_legacy_bodies`` and ``kling_bodies`` have the bodies.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct

from tracker.model.untrusted import ID_LENGTH

PROMPT_LENGTH: Final = 2_500
# 2,500 in the official page, 5,000 in the resellers' schema.
IMAGE_PROMPT_LENGTH: Final = 5_000
# 2,500 or 3,072, by model.
NEW_PROMPT_LENGTH: Final = 3_072
SHOT_LENGTH: Final = 512
SOUND_PROMPT_LENGTH: Final = 200
SPEECH_LENGTH: Final = 120
NAME_LENGTH: Final = 20
DESCRIPTION_LENGTH: Final = 100
MAX_IMAGES: Final = 9
MAX_INPUTS: Final = 10
MAX_INPUTS_OF_VIDEO: Final = 7
MAX_MASKS: Final = 6
MAX_SHOTS: Final = 6

Prompt = Annotated[str, Meta(min_length=1, max_length=PROMPT_LENGTH)]
ImagePrompt = Annotated[str, Meta(min_length=1, max_length=IMAGE_PROMPT_LENGTH)]
NewPrompt = Annotated[str, Meta(min_length=1, max_length=NEW_PROMPT_LENGTH)]
# 200 characters in 2024, 2,000 in the resellers' schema, 2,500 today.
NegativePrompt = Annotated[str, Meta(max_length=PROMPT_LENGTH)]
SoundPrompt = Annotated[str, Meta(max_length=SOUND_PROMPT_LENGTH)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)]
Required = Annotated[str, Meta(min_length=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Volume = Annotated[float, Meta(ge=0, le=2)]
Speed = Annotated[float, Meta(ge=0.8, le=2)]
Expansion = Annotated[float, Meta(ge=0, le=2)]
Movement = Annotated[float, Meta(ge=-10, le=10)]
Count = Annotated[int, Meta(ge=1, le=MAX_IMAGES)]
Milliseconds = Annotated[int, Meta(ge=0, description="a number of milliseconds")]
# The resellers' copy of one page has a list of them. Elsewhere any text fits.
AspectRatio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "auto"]
# Text in every edition ("5"), a number in some clients.
Seconds = Annotated[
    Annotated[int, Meta(ge=3, le=15)] | Annotated[str, Meta(pattern=r"^([3-9]|1[0-5])\Z")],
    Meta(description="a whole number of seconds from 3 to 15, as a number or as text"),
]
# New words come each quarter, so any text fits.
Mode = Annotated[str, Meta(description="a text, such as std, pro or 4k")]
Switch = Annotated[str, Meta(description="a text: on or off")]
ImageRatio = Annotated[str, Meta(description="a text, such as 16:9, 1:1 or 21:9")]
VideoRatio = Annotated[str, Meta(description="a text, such as 16:9, 9:16 or 1:1")]
Resolution = Annotated[str, Meta(description="a text, such as 1k, 2k or 4k")]
SoundSeconds = Annotated[
    Annotated[float, Meta(ge=3, le=10)] | Annotated[str, Meta(pattern=r"^([3-9](\.\d)?|10(\.0)?)\Z")],
    Meta(description="a number of seconds from 3 to 10, as a number or as text"),
]
# The provider ignores these two fields in some requests, so any value fits.
AnySeconds = Annotated[int | float | str, Meta(description="a number of seconds, as a number or as text")]
AnyCount = Annotated[int | float | str, Meta(description="an integer from 2 to 9, or auto")]
MEDIA: Final = "a text: the URL of a file, or the file in Base64"
Media = Annotated[str, Meta(description=MEDIA)]
RequiredMedia = Annotated[str, Meta(min_length=1, description=MEDIA)]
ExternalId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ID_LENGTH,
        description=f"a text of 1 to {ID_LENGTH} printable characters, unique among your tasks",
    ),
]
CallbackUrl = Annotated[
    str, Meta(description="an https URL on the public internet, which Homing calls in the provider's shape")
]
# Numbers in the documentation. They have more digits than JavaScript keeps, so clients write them as text.
ElementId = int | str


GROUP_MISSING: Final = " is required"


class Part(Struct, kw_only=True):
    """A part of a body. At least one field of each group in ``any_of`` is required."""

    any_of: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def __post_init__(self) -> None:
        for names in self.any_of:
            if not any(getattr(self, name) for name in names):
                raise ValueError(f"{' or '.join(names)}{GROUP_MISSING}")


class CreateBody(Part, kw_only=True):
    """The fields of every create request."""

    external_task_id: ExternalId | None = None
    callback_url: CallbackUrl | None = None
    # An object in nearly all editions, a list in one.
    watermark_info: Annotated[dict[str, Any] | list[Any], Meta(description="an object with enabled")] | None = None


class ModelBody(CreateBody, kw_only=True):
    """A create request that may name a model."""

    model_name: str | None = None


class ImageEntry(Part, kw_only=True):
    """One picture of a list."""

    image: RequiredMedia


class ImageUrlEntry(Part, kw_only=True):
    """One picture of ``videos/omni-video``, with its role."""

    image_url: RequiredMedia
    type: str | None = None


class VideoEntry(Part, kw_only=True):
    """The video of ``videos/omni-video``."""

    video_url: RequiredMedia
    refer_type: str | None = None
    keep_original_sound: str | None = None


class SubjectImage(Part, kw_only=True):
    """One subject of ``images/multi-image2image``."""

    subject_image: RequiredMedia


class ElementEntry(Part, kw_only=True):
    """A custom element, by its ID."""

    element_id: ElementId


class VoiceEntry(Part, kw_only=True):
    """A voice, by its ID."""

    voice_id: str


class Shot(Part, kw_only=True):
    """One shot of a video with several."""

    prompt: Annotated[str, Meta(max_length=SHOT_LENGTH)] | None = None
    index: int | None = None
    duration: int | str | None = None


class CameraMoves(Part, kw_only=True):
    """The moves of a ``simple`` camera control."""

    horizontal: Movement | None = None
    vertical: Movement | None = None
    pan: Movement | None = None
    tilt: Movement | None = None
    roll: Movement | None = None
    zoom: Movement | None = None


class CameraControl(Part, kw_only=True):
    """How the camera moves."""

    type: str | None = None
    config: CameraMoves | None = None


class Point(Part, kw_only=True):
    """A point in a picture."""

    x: float
    y: float


class DynamicMask(Part, kw_only=True):
    """A part of the picture that moves, and its way."""

    mask: Media | None = None
    trajectories: list[Point] | None = None


Images = Annotated[list[ImageEntry], Meta(max_length=MAX_INPUTS)]
Elements = Annotated[list[ElementEntry], Meta(max_length=MAX_INPUTS)]
# Some clients of this oldest kind send entries in other forms, which some gateways accept.
LooseImages = Annotated[list[dict[str, Any] | str], Meta(max_length=MAX_INPUTS)]
LooseElements = Annotated[list[dict[str, Any]], Meta(max_length=MAX_INPUTS)]
Shots = Annotated[list[Shot], Meta(max_length=MAX_SHOTS)]
Voices = list[VoiceEntry]
