"""The products of the provider: the required fields, the results, and what is special about each.

Documented: the fields and results of each page (editions of 2026), where a query by external ID is not offered, and
which tasks have a `parent_video`. Assumed: the number of entries of `ai-multi-shot`, the IDs of results, and the number
of units. Bounds of fields are in `submission`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

OMNI_IMAGE = "images/omni-image"
GENERATIONS = "images/generations"
TRY_ON = "solutions/virtual_try_on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a result: its type, and its files as pairs of a field of the legacy shape and a file name's end."""

    type: str
    files: tuple[tuple[str, str], ...]


IMAGE = Entry(type="image", files=(("url", "png"),))
VIEWS = Entry(type="image", files=(("url_1", "png"), ("url_2", "png"), ("url_3", "png")))
VIDEO = Entry(type="video", files=(("url", "mp4"),))
AUDIO = Entry(type="audio", files=(("url_mp3", "mp3"), ("url_wav", "wav")))
VOICE = Entry(type="voice", files=(("trial_url", "wav"),))
PRODUCT_IMAGE = Entry(type="product_image", files=(("url", "png"),))
MODEL_IMAGES = Entry(type="model_images", files=(("url", "png"),))
PRODUCT_VIDEO = Entry(type="product_video", files=(("url", "mp4"),))
SUBBED_VIDEO = Entry(type="subbed_video", files=(("url", "mp4"),))
SRT = Entry(type="srt", files=(("url", "srt"),))
ASS = Entry(type="ass", files=(("url", "ass"),))
ELEMENT = Entry(type="element", files=(("frontal_image", "png"),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product.

    - `entries`: the entries of its result. With `counts`, the request says how many.
    - `required`: of each group, one field must be there; `required_input`: the same within `input`.
    - `models`: its models, the default first.
    - `looked_up`: there is a query by external ID. `takes_external_id`: it does not ignore one.
    - `has_parent`: its `task_info` names the source video. `timed`: its videos have a duration.
    - `dialect`: of its path: `legacy` below `/v1`, `new` with the model in the path, or `solutions`.
    - `final_only`: it calls back only at the end.
    """

    entries: tuple[Entry, ...]
    required: tuple[tuple[str, ...], ...] = (("prompt",),)
    required_input: tuple[tuple[str, ...], ...] = ()
    models: tuple[str, ...] = ()
    counts: bool = False
    looked_up: bool = True
    takes_external_id: bool = True
    has_parent: bool = False
    timed: bool = True
    units: float = 1
    dialect: str = "legacy"
    final_only: bool = False


_V1 = ("kling-v1", "kling-v1-6", "kling-v2-master", "kling-v2-1-master", "kling-v2-5-turbo", "kling-v2-6", "kling-v3")
_NEW_MODELS = ("kling-3.0", "kling-3.0-turbo", "kling-2.6", "kling-2.5-turbo")
_CONTENTS = (("contents",),)
_SOURCE = ("video_id", "video_url")
# Live: one image of kling-v3 at 1k.
_UNITS_PER_PICTURE = 8

PRODUCTS: Mapping[str, Product] = {
    OMNI_IMAGE: Product(
        entries=(IMAGE,),
        models=("kling-image-o1", "kling-v3-omni", "kling-v1", "kling-v1-5", "kling-v2"),
        counts=True,
        units=_UNITS_PER_PICTURE,
    ),
    GENERATIONS: Product(
        entries=(IMAGE,),
        models=("kling-v3", "kling-v2-1", "kling-v2-new", "kling-v1", "kling-v1-5", "kling-v2"),
        counts=True,
        units=_UNITS_PER_PICTURE,
    ),
    "images/multi-image2image": Product(
        entries=(IMAGE,),
        required=(("subject_image_list",),),
        models=("kling-v2-1", "kling-v2"),
        counts=True,
        units=_UNITS_PER_PICTURE,
    ),
    "images/editing/expand": Product(
        entries=(IMAGE,),
        required=(
            ("image",),
            ("up_expansion_ratio",),
            ("down_expansion_ratio",),
            ("left_expansion_ratio",),
            ("right_expansion_ratio",),
        ),
        counts=True,
        units=_UNITS_PER_PICTURE,
    ),
    "images/kolors-virtual-try-on": Product(
        entries=(IMAGE,),
        required=(("human_image",), ("cloth_image",)),
        models=("kolors-virtual-try-on-v1", "kolors-virtual-try-on-v1-5"),
    ),
    "videos/text2video": Product(entries=(VIDEO,), required=(("prompt", "multi_prompt"),), models=_V1),
    "videos/image2video": Product(
        entries=(VIDEO,), required=(("image", "image_tail"),), models=(*_V1, "kling-v1-5", "kling-v2-1")
    ),
    "videos/omni-video": Product(
        entries=(VIDEO,), required=(("prompt", "multi_prompt"),), models=("kling-video-o1", "kling-v3-omni")
    ),
    "videos/multi-image2video": Product(
        entries=(VIDEO,), required=(("image_list",), ("prompt",)), models=("kling-v1-6",)
    ),
    "videos/multi-elements": Product(
        entries=(VIDEO,), required=(("session_id",), ("edit_mode",), ("prompt",)), models=("kling-v1-6",)
    ),
    "videos/motion-control": Product(
        entries=(VIDEO,),
        required=(("image_url",), ("video_url",), ("character_orientation",), ("mode",)),
        models=("kling-v2-6", "kling-v3"),
    ),
    "videos/video-extend": Product(entries=(VIDEO,), required=(("video_id",),), has_parent=True),
    "videos/advanced-lip-sync": Product(
        entries=(VIDEO,), required=(("session_id",), ("face_choose",)), looked_up=False, has_parent=True
    ),
    "videos/lip-sync": Product(
        entries=(VIDEO,),
        required=(("input",),),
        required_input=(("mode",), _SOURCE),
        looked_up=False,
        takes_external_id=False,
        has_parent=True,
    ),
    "videos/effects": Product(
        entries=(VIDEO,), required=(("effect_scene",), ("input",)), required_input=(("image", "images"),), timed=False
    ),
    "videos/avatar/image2video": Product(entries=(VIDEO,), required=(("image",), ("audio_id", "sound_file"))),
    "audio/text-to-audio": Product(entries=(AUDIO,), required=(("prompt",), ("duration",)), units=0.25),
    "audio/video-to-audio": Product(entries=(VIDEO, AUDIO), required=(_SOURCE,), has_parent=True, units=0.25),
    "general/ai-multi-shot": Product(
        entries=(VIEWS, VIEWS, VIEWS), required=(("element_frontal_image",),), looked_up=False
    ),
    "general/custom-voices": Product(
        entries=(VOICE,), required=(("voice_name",), ("voice_url", "video_id")), units=0.05
    ),
    "general/advanced-custom-elements": Product(
        entries=(ELEMENT,), required=(("element_name",), ("element_description",), ("reference_type",)), units=0
    ),
    "text-to-video": Product(entries=(VIDEO,), models=_NEW_MODELS, dialect="new"),
    "image-to-video": Product(entries=(VIDEO,), required=_CONTENTS, models=_NEW_MODELS, dialect="new"),
    "omni-video": Product(
        entries=(VIDEO,), required=_CONTENTS, models=("kling-3.0-omni", "kling-o1", "kling-v3-omni"), dialect="new"
    ),
    "motion-control": Product(entries=(VIDEO,), required=_CONTENTS, models=("kling-3.0", "kling-2.6"), dialect="new"),
    TRY_ON: Product(entries=(IMAGE,), required=_CONTENTS, dialect="solutions"),
    "solutions/e-commerce/clothing_dupe": Product(
        entries=(PRODUCT_IMAGE, MODEL_IMAGES, PRODUCT_VIDEO), required=_CONTENTS, dialect="solutions"
    ),
    "solutions/e-commerce/goods_studio": Product(
        entries=(VIDEO,), required=(*_CONTENTS, ("settings",)), dialect="solutions"
    ),
    "solutions/talking_agent": Product(entries=(VIDEO,), required=_CONTENTS, dialect="solutions"),
    "solutions/drama_subtitle": Product(
        entries=(SUBBED_VIDEO, SRT, ASS), required=_CONTENTS, dialect="solutions", final_only=True
    ),
}
