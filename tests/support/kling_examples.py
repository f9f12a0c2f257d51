"""One usual create request for each kind of Kling, and the results that its tasks end with."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tracker.model.untrusted import JsonObject
from tracker.providers.base import Query

OMNI_IMAGE: Final = "images/omni-image"
PICTURE: Final = "https://client.example/cat.png"
CLIP: Final = "https://client.example/cat.mp4"

# By the operation at the gateway: one usual body of each helper call.
HELPER_REQUESTS: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        "post_v1_audio_tts": {"text": "hello", "voice_id": "a-voice", "voice_language": "en", "voice_speed": 1.0},
        "post_v1_videos_identify_face": {"video_url": CLIP},
        "post_v1_videos_image_recognize": {"image": PICTURE},
        "post_v1_videos_multi_elements_init_selection": {"video_id": "8001"},
        **{
            f"post_v1_videos_multi_elements_{step}_selection": {
                "session_id": "a-session",
                "frame_index": 0,
                "points": [{"x": 0.5, "y": 0.5}],
            }
            for step in ("add", "delete")
        },
        **{
            f"post_v1_videos_multi_elements_{step}_selection": {"session_id": "a-session"}
            for step in ("clear", "preview")
        },
        "post_v1_general_delete_voices": {"voice_id": "a-voice"},
        "post_v1_general_delete_advanced_elements": {"element_id": "8001"},
        "post_v1_general_delete_elements": {"element_id": 8001},
        "post_v1_general_custom_elements": {
            "element_name": "cat",
            "element_description": "a cat",
            "element_frontal_image": PICTURE,
            "element_refer_list": [{"image_url": PICTURE}],
        },
    }
)

REQUESTS: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        OMNI_IMAGE: {"prompt": "a cat", "model_name": "kling-v3-omni", "n": 2},
        "images/generations": {"prompt": "a cat", "model_name": "kling-v3", "negative_prompt": "a dog", "n": 2},
        "images/multi-image2image": {
            "model_name": "kling-v2-1",
            "subject_image_list": [{"subject_image": PICTURE}],
            "style_image": PICTURE,
            "prompt": "a cat",
        },
        "images/editing/expand": {
            "image": PICTURE,
            "up_expansion_ratio": 0.1,
            "down_expansion_ratio": 0.1,
            "left_expansion_ratio": 0.1,
            "right_expansion_ratio": 0,
        },
        "images/kolors-virtual-try-on": {"human_image": PICTURE, "cloth_image": PICTURE},
        "videos/text2video": {
            "model_name": "kling-v2-6",
            "prompt": "a cat",
            "duration": "10",
            "aspect_ratio": "9:16",
            "camera_control": {"type": "simple", "config": {"zoom": 5}},
        },
        "videos/image2video": {
            "model_name": "kling-v1-6",
            "image": PICTURE,
            "image_tail": PICTURE,
            "dynamic_masks": [{"mask": PICTURE, "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}],
            "cfg_scale": 0.5,
            "mode": "pro",
            "duration": 5,
        },
        "videos/omni-video": {
            "model_name": "kling-v3-omni",
            "multi_shot": True,
            "shot_type": "customize",
            "multi_prompt": [{"index": 1, "prompt": "a cat", "duration": "5"}],
            "image_list": [{"image_url": PICTURE, "type": "first_frame"}],
            "video_list": [{"video_url": CLIP, "refer_type": "feature"}],
            "element_list": [{"element_id": 829836802793406551}],
            "duration": "5",
        },
        "videos/multi-image2video": {"image_list": [{"image": PICTURE}], "prompt": "a cat", "model_name": "kling-v1-6"},
        "videos/multi-elements": {
            "session_id": "session-1",
            "edit_mode": "swap",
            "image_list": [{"image": PICTURE}],
            "prompt": "a cat",
        },
        "videos/motion-control": {
            "image_url": PICTURE,
            "video_url": CLIP,
            "character_orientation": "image",
            "mode": "std",
        },
        "videos/video-extend": {"video_id": "845000000000000001", "prompt": "it sleeps"},
        "videos/advanced-lip-sync": {
            "session_id": "session-1",
            "face_choose": [
                {
                    "face_id": "0",
                    "audio_id": "845000000000000002",
                    "sound_start_time": 0,
                    "sound_end_time": 3000,
                    "sound_insert_time": 0,
                    "sound_volume": 1,
                }
            ],
        },
        "videos/lip-sync": {
            "input": {"mode": "text2video", "video_url": CLIP, "text": "Hello", "voice_id": "genshin_vindi2"}
        },
        "videos/effects": {"effect_scene": "hug", "input": {"images": [PICTURE, PICTURE], "duration": "5"}},
        "videos/avatar/image2video": {"image": PICTURE, "sound_file": "https://client.example/cat.mp3"},
        "audio/text-to-audio": {"prompt": "a cat purrs", "duration": 3.5},
        "audio/video-to-audio": {"video_url": CLIP, "sound_effect_prompt": "rain", "asmr_mode": False},
        "general/ai-multi-shot": {"element_frontal_image": PICTURE},
        "general/custom-voices": {"voice_name": "a cat", "voice_url": "https://client.example/cat.mp3"},
        "general/advanced-custom-elements": {
            "element_name": "a cat",
            "element_description": "a black cat",
            "reference_type": "image_refer",
            "element_image_list": {"frontal_image": PICTURE, "refer_images": [{"image_url": PICTURE}]},
        },
        "text-to-video": {"prompt": "a cat", "settings": {"duration": 5, "resolution": "720p", "audio": "off"}},
        "image-to-video": {
            "contents": [{"type": "prompt", "text": "a cat"}, {"type": "first_frame", "url": PICTURE}],
            "settings": {"duration": 5},
        },
        "omni-video": {
            "contents": [
                {"type": "prompt", "text": "a cat like @it"},
                {"type": "element", "element_id": "829836802793406551", "id": "it"},
                {"type": "feature_video", "url": CLIP},
            ],
            "settings": {"multi_shot": False},
        },
        "motion-control": {
            "contents": [{"type": "image", "url": PICTURE}, {"type": "video", "url": CLIP}],
            "settings": {"character_orientation": "image"},
        },
        "solutions/virtual_try_on": {
            "contents": [{"type": "product_image", "url": PICTURE}, {"type": "person_image", "url": PICTURE}],
            "settings": {"keep_face": True},
        },
        "solutions/e-commerce/clothing_dupe": {
            "contents": [
                {"type": "product_info", "text": "a coat for a cat"},
                {"type": "source_video", "url": CLIP},
                {"type": "product_image", "url": PICTURE},
            ],
        },
        "solutions/e-commerce/goods_studio": {
            "contents": [{"type": "ref_image", "url": PICTURE}, {"type": "goods_title", "text": "a coat for a cat"}],
            "settings": {"resolution": "720p", "aspect_ratio": "9:16", "duration": 15},
        },
        "solutions/talking_agent": {
            "contents": [{"type": "avatar_image", "url": PICTURE}, {"type": "speech_script", "text": "Hello"}],
            "settings": {"voice_id": "a-voice"},
        },
        "solutions/drama_subtitle": {
            "contents": [
                {"type": "source_video", "url": CLIP},
                {"type": "glossary", "source": "a cat", "target": "eine Katze"},
            ],
        },
    }
)


# The path of each kind, with a model where it has one.
MODELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text-to-video": "kling-3.0",
        "image-to-video": "kling-2.5-turbo",
        "omni-video": "kling-3.0-omni",
        "motion-control": "kling-2.6",
    }
)


def path_of(kind: str) -> str:
    if kind in MODELS:
        return f"/{kind}/{MODELS[kind]}"
    return f"/{kind}" if kind.startswith("solutions/") else f"/v1/{kind}"


def a_query(task_id: str, *, external: bool = False, kind: str = OMNI_IMAGE) -> Query:
    return Query(kind=kind, task_id=task_id, external=external)
