"""The bodies of Kling's create requests, one class for each kind of task.

Documentation: https://kling.ai/document-api, the page of each product, in every edition since 2025, and the resellers'
copies. These documents disagree about models, fields and limits. So a class refuses only what all of them forbid: it
has the loosest bound of a number or a length, it requires only what all of them require, and a word (a mode, a model)
is any text, because new ones come each quarter. Fields that are not listed go to the provider unchanged.

``kling_order`` checks a body against its class. /openapi.json and docs/reference/kling-kinds.md are made from them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, Struct

from tracker.model.untrusted import ID_LENGTH

PROMPT_LENGTH: Final = 2_500
# 2,500 in the official page, 5,000 in the resellers' schema.
IMAGE_PROMPT_LENGTH: Final = 5_000
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
AspectRatio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "auto"]
# Text in every edition ("5"), a number in some clients.
Seconds = Annotated[
    Annotated[int, Meta(ge=3, le=15)] | Annotated[str, Meta(pattern=r"^([3-9]|1[0-5])$")],
    Meta(description="a whole number of seconds from 3 to 15, as a number or as text"),
]
# New words come each quarter, so any text fits.
Mode = Annotated[str, Meta(description="a text, such as std, pro or 4k")]
Switch = Annotated[str, Meta(description="a text: on or off")]
VideoRatio = Annotated[str, Meta(description="a text, such as 16:9, 9:16 or 1:1")]
Resolution = Annotated[str, Meta(description="a text, such as 1k, 2k or 4k")]
SoundSeconds = Annotated[float, Meta(ge=3, le=10)]
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


class Part(Struct, kw_only=True):
    """A part of a body. At least one field of each group in ``any_of`` is required."""

    any_of: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def __post_init__(self) -> None:
        for names in self.any_of:
            if not any(getattr(self, name) for name in names):
                raise ValueError(f"{' or '.join(names)} is required")


class CreateBody(Part, kw_only=True):
    """The fields of every create request."""

    external_task_id: ExternalId | None = None
    callback_url: CallbackUrl | None = None


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
Shots = Annotated[list[Shot], Meta(max_length=MAX_SHOTS)]
Voices = list[VoiceEntry]


class OmniImageBody(ModelBody, kw_only=True):
    """``images/omni-image``: the official body and the resellers'."""

    prompt: ImagePrompt
    negative_prompt: NegativePrompt | None = None
    image: Media | None = None
    image_fidelity: Share | None = None
    image_list: Images | None = None
    element_list: Elements | None = None
    resolution: Resolution | None = None
    result_type: Annotated[str, Meta(description="a text, such as single or series")] | None = None
    n: Count | None = None
    series_amount: Annotated[int, Meta(ge=2, le=MAX_IMAGES)] | Literal["auto"] | None = None
    aspect_ratio: AspectRatio | None = None


class GenerationsBody(ModelBody, kw_only=True):
    """``images/generations``."""

    prompt: ImagePrompt
    negative_prompt: NegativePrompt | None = None
    image: Media | None = None
    image_reference: str | None = None
    image_fidelity: Share | None = None
    human_fidelity: Share | None = None
    element_list: Elements | None = None
    resolution: Resolution | None = None
    n: Count | None = None
    aspect_ratio: AspectRatio | None = None


class MultiImage2ImageBody(ModelBody, kw_only=True):
    """``images/multi-image2image``."""

    subject_image_list: Annotated[list[SubjectImage], Meta(min_length=1, max_length=MAX_INPUTS)]
    prompt: Prompt | None = None
    scene_image: Media | None = None
    style_image: Media | None = None
    n: Count | None = None
    aspect_ratio: AspectRatio | None = None


class ExpandBody(CreateBody, kw_only=True):
    """``images/editing/expand``. The ratios are shares of the picture's height and width."""

    image: RequiredMedia
    up_expansion_ratio: Expansion
    down_expansion_ratio: Expansion
    left_expansion_ratio: Expansion
    right_expansion_ratio: Expansion
    prompt: Prompt | None = None
    n: Count | None = None


class VirtualTryOnBody(ModelBody, kw_only=True):
    """``images/kolors-virtual-try-on``."""

    human_image: RequiredMedia
    cloth_image: RequiredMedia


class Text2VideoBody(ModelBody, kw_only=True):
    """``videos/text2video``. A video of several shots may have a prompt for each shot instead of one for all."""

    any_of: ClassVar = (("prompt", "multi_prompt"),)

    prompt: Prompt | None = None
    negative_prompt: NegativePrompt | None = None
    cfg_scale: Share | None = None
    mode: Mode | None = None
    sound: Switch | None = None
    camera_control: CameraControl | None = None
    aspect_ratio: VideoRatio | None = None
    duration: Seconds | None = None
    multi_shot: bool | None = None
    shot_type: str | None = None
    multi_prompt: Shots | None = None
    voice_list: Voices | None = None


class Image2VideoBody(ModelBody, kw_only=True):
    """``videos/image2video``."""

    any_of: ClassVar = (("image", "image_tail"),)

    image: Media | None = None
    image_tail: Media | None = None
    prompt: Prompt | None = None
    negative_prompt: NegativePrompt | None = None
    cfg_scale: Share | None = None
    mode: Mode | None = None
    sound: Switch | None = None
    static_mask: Media | None = None
    dynamic_masks: Annotated[list[DynamicMask], Meta(max_length=MAX_MASKS)] | None = None
    camera_control: CameraControl | None = None
    duration: Seconds | None = None
    multi_shot: bool | None = None
    shot_type: str | None = None
    multi_prompt: Shots | None = None
    element_list: Elements | None = None
    voice_list: Voices | None = None


class OmniVideoBody(ModelBody, kw_only=True):
    """``videos/omni-video``. A video of several shots may have a prompt for each shot instead of one for all."""

    any_of: ClassVar = (("prompt", "multi_prompt"),)

    prompt: Prompt | None = None
    image_list: Annotated[list[ImageUrlEntry], Meta(max_length=MAX_INPUTS_OF_VIDEO)] | None = None
    element_list: Elements | None = None
    video_list: Annotated[list[VideoEntry], Meta(max_length=1)] | None = None
    sound: Switch | None = None
    mode: Mode | None = None
    aspect_ratio: VideoRatio | None = None
    duration: Seconds | None = None
    multi_shot: bool | None = None
    shot_type: str | None = None
    multi_prompt: Shots | None = None


class MultiImage2VideoBody(ModelBody, kw_only=True):
    """``videos/multi-image2video``."""

    image_list: Annotated[list[ImageEntry], Meta(min_length=1, max_length=4)]
    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    mode: Mode | None = None
    duration: Seconds | None = None
    aspect_ratio: VideoRatio | None = None


class MotionControlBody(ModelBody, kw_only=True):
    """``videos/motion-control``."""

    image_url: RequiredMedia
    video_url: RequiredMedia
    character_orientation: Required
    mode: Mode | None = None
    prompt: Prompt | None = None
    keep_original_sound: str | None = None
    element_list: Elements | None = None


class VideoExtendBody(CreateBody, kw_only=True):
    """``videos/video-extend``."""

    video_id: Required
    prompt: Prompt | None = None
    negative_prompt: NegativePrompt | None = None
    cfg_scale: Share | None = None


class LipSyncInput(Part, kw_only=True):
    """The video of ``videos/lip-sync``, and what it says."""

    any_of: ClassVar = (("video_id", "video_url"),)

    mode: Required
    video_id: str | None = None
    video_url: Media | None = None
    text: Annotated[str, Meta(max_length=SPEECH_LENGTH)] | None = None
    voice_id: str | None = None
    voice_language: str | None = None
    voice_speed: Speed | None = None
    audio_type: str | None = None
    audio_file: Media | None = None
    audio_url: Media | None = None


class LipSyncBody(CreateBody, kw_only=True):
    """``videos/lip-sync``, the older one."""

    input: LipSyncInput


class FaceChoice(Part, kw_only=True):
    """A face of the session, and the sound that it speaks."""

    face_id: str
    audio_id: str | None = None
    sound_file: Media | None = None
    sound_start_time: Milliseconds | None = None
    sound_end_time: Milliseconds | None = None
    sound_insert_time: Milliseconds | None = None
    sound_volume: Volume | None = None
    original_audio_volume: Volume | None = None


class AdvancedLipSyncBody(CreateBody, kw_only=True):
    """``videos/advanced-lip-sync``. The session is that of ``videos/identify-face``."""

    session_id: Required
    face_choose: Annotated[list[FaceChoice], Meta(min_length=1)]


class EffectsInput(Part, kw_only=True):
    """The pictures of ``videos/effects``: one, or two for an effect with a pair."""

    any_of: ClassVar = (("image", "images"),)

    image: Media | list[str] | None = None
    images: list[str] | None = None
    duration: Seconds | None = None
    model_name: str | None = None
    mode: Mode | None = None


class EffectsBody(CreateBody, kw_only=True):
    """``videos/effects``."""

    effect_scene: Required
    input: EffectsInput


class AvatarBody(CreateBody, kw_only=True):
    """``videos/avatar/image2video``."""

    any_of: ClassVar = (("audio_id", "sound_file"),)

    image: RequiredMedia
    audio_id: str | None = None
    sound_file: Media | None = None
    prompt: Prompt | None = None
    mode: Mode | None = None


class MultiElementsBody(ModelBody, kw_only=True):
    """``videos/multi-elements``. The session is that of ``videos/multi-elements/init-selection``."""

    session_id: Required
    edit_mode: Required
    prompt: Prompt
    image_list: Images | None = None
    negative_prompt: NegativePrompt | None = None
    mode: Mode | None = None
    duration: Seconds | None = None


class TextToAudioBody(CreateBody, kw_only=True):
    """``audio/text-to-audio``."""

    prompt: Annotated[str, Meta(min_length=1, max_length=SOUND_PROMPT_LENGTH)]
    duration: SoundSeconds


class VideoToAudioBody(CreateBody, kw_only=True):
    """``audio/video-to-audio``."""

    any_of: ClassVar = (("video_id", "video_url"),)

    video_id: str | None = None
    video_url: Media | None = None
    sound_effect_prompt: SoundPrompt | None = None
    bgm_prompt: SoundPrompt | None = None
    asmr_mode: bool | None = None


class MultiShotBody(CreateBody, kw_only=True):
    """``general/ai-multi-shot``."""

    element_frontal_image: RequiredMedia


class CustomVoiceBody(CreateBody, kw_only=True):
    """``general/custom-voices``."""

    any_of: ClassVar = (("voice_url", "video_id"),)

    voice_name: Name
    voice_url: Media | None = None
    video_id: str | None = None


class ElementImages(Part, kw_only=True):
    """The pictures of a custom element."""

    frontal_image: RequiredMedia
    refer_images: Annotated[list[ImageUrlEntry], Meta(max_length=MAX_INPUTS)] | None = None


class ElementVideos(Part, kw_only=True):
    """The video of a custom element."""

    refer_videos: Annotated[list[VideoEntry], Meta(min_length=1)]


class CustomElementBody(CreateBody, kw_only=True):
    """``general/advanced-custom-elements``."""

    any_of: ClassVar = (("element_image_list", "element_video_list"),)

    element_name: Name
    element_description: Annotated[str, Meta(min_length=1, max_length=DESCRIPTION_LENGTH)]
    reference_type: Required
    element_image_list: ElementImages | None = None
    element_video_list: ElementVideos | None = None
    element_voice_id: str | None = None


BODIES: Final[Mapping[str, type[CreateBody]]] = MappingProxyType(
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
        "general/ai-multi-shot": MultiShotBody,
        "general/custom-voices": CustomVoiceBody,
        "general/advanced-custom-elements": CustomElementBody,
    }
)
