"""The bodies of the create requests on Kling's paths below ``/v1``, one class for each kind of task."""

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from tracker.providers.kling_fields import (
    DESCRIPTION_LENGTH,
    MAX_INPUTS,
    MAX_INPUTS_OF_VIDEO,
    MAX_MASKS,
    SOUND_PROMPT_LENGTH,
    SPEECH_LENGTH,
    AnyCount,
    AnySeconds,
    AspectRatio,
    CameraControl,
    Count,
    CreateBody,
    DynamicMask,
    Elements,
    Expansion,
    ImageEntry,
    ImagePrompt,
    ImageRatio,
    Images,
    ImageUrlEntry,
    LooseElements,
    LooseImages,
    Media,
    Milliseconds,
    Mode,
    ModelBody,
    Name,
    NegativePrompt,
    Part,
    Prompt,
    Required,
    RequiredMedia,
    Resolution,
    Seconds,
    Share,
    Shots,
    SoundPrompt,
    SoundSeconds,
    Speed,
    SubjectImage,
    Switch,
    VideoEntry,
    VideoRatio,
    Voices,
    Volume,
)


class OmniImageBody(ModelBody, kw_only=True):
    """``images/omni-image``: the official body and the resellers'."""

    prompt: ImagePrompt
    negative_prompt: NegativePrompt | None = None
    image: Media | None = None
    image_fidelity: Share | None = None
    image_list: LooseImages | None = None
    element_list: LooseElements | None = None
    resolution: Resolution | None = None
    result_type: Annotated[str, Meta(description="a text, such as single or series")] | None = None
    n: Count | None = None
    series_amount: AnyCount | None = None
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
    aspect_ratio: ImageRatio | None = None


class MultiImage2ImageBody(ModelBody, kw_only=True):
    """``images/multi-image2image``."""

    subject_image_list: Annotated[list[SubjectImage], Meta(min_length=1, max_length=MAX_INPUTS)]
    prompt: Prompt | None = None
    scene_image: Media | None = None
    style_image: Media | None = None
    n: Count | None = None
    aspect_ratio: ImageRatio | None = None


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
    duration: AnySeconds | None = None
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

    image: Media | list[Media] | None = None
    images: list[Media] | None = None
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


class AiMultiShotBody(CreateBody, kw_only=True):
    """``general/ai-multi-shot``."""

    element_frontal_image: RequiredMedia


class CustomVoiceBody(CreateBody, kw_only=True):
    """``general/custom-voices``."""

    any_of: ClassVar = (("voice_url", "video_id"),)

    voice_name: Name
    voice_url: Media | None = None
    video_id: str | None = None


class ElementPicture(Part, kw_only=True):
    """One more picture of a custom element."""

    image_url: RequiredMedia


class ElementVideo(Part, kw_only=True):
    """The video of a custom element."""

    video_url: RequiredMedia


class ElementImages(Part, kw_only=True):
    """The pictures of a custom element."""

    frontal_image: Media | None = None
    refer_images: Annotated[list[ElementPicture], Meta(max_length=MAX_INPUTS)] | None = None


class ElementVideos(Part, kw_only=True):
    """The video of a custom element."""

    refer_videos: list[ElementVideo] | None = None


class CustomElementBody(CreateBody, kw_only=True):
    """``general/advanced-custom-elements``."""

    any_of: ClassVar = (("element_image_list", "element_video_list"),)

    element_name: Name
    element_description: Annotated[str, Meta(min_length=1, max_length=DESCRIPTION_LENGTH)]
    reference_type: Required
    element_image_list: ElementImages | None = None
    element_video_list: ElementVideos | None = None
    element_voice_id: str | None = None
    tag_list: list[dict[str, Any]] | None = None
