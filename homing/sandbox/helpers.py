"""The calls that the provider answers at once, without a task: speech, faces, recognition, selections, presets, costs.

Documented: paths, required fields, bounds, the fields of the answers, and the prices ("Pricing"). Live: "Voice id not
found" at `tts`, also for a voice of `presets-voices`. Assumed: that text at `delete-voices`, the texts for an unknown
element or session, the answer of the older `custom-elements`, that `tts` takes a custom voice, and that the provider
charges only for successful answers. Not checked: pictures and videos.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from homing.sandbox import shapes
from homing.sandbox.ledger import Ledger
from homing.sandbox.listing import page_bounds
from homing.sandbox.refusals import Refusal
from homing.sandbox.submission import JsonObject, json_object
from homing.sandbox.task import SUCCEED, Task

TTS_VOICES = ("tts-voice-1", "tts-voice-2")
PRESET_VOICES = ("preset-voice-1", "preset-voice-2")
PRESET_ELEMENTS = (850_000_000_000_000_001, 850_000_000_000_000_002)
_TEXT_LIMIT = 1000
_POINTS_LIMIT = 10
_SPEEDS = (0.8, 2.0)
_FIRST_ELEMENT = 860_000_000_000_000_000
_SEGMENTS = ("object_seg", "head_seg", "face_seg", "cloth_seg")
_SOURCE = ("video_id", "video_url")
VOICE_NOT_FOUND = "Voice id not found"  # live, at tts
ELEMENT_NOT_FOUND = "Element id not found"  # live, at the newer dialect
SESSION_NOT_FOUND = "Session id not found"  # assumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """One call: its method and path, its price in units, and whether the ledger counts it as a charge."""

    method: str
    path: str
    answer: Callable[[JsonObject, str], Any]
    units: float = 0
    charged: bool = False


class Helpers:
    """The answers, and the voices, elements and sessions of the account that no task has."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sessions: set[str] = set()
        self._elements: dict[str, JsonObject] = {}
        self._deleted: set[str] = set()

    def calls(self) -> list[Helper]:
        selection, general = "/v1/videos/multi-elements", "/v1/general"
        return [
            Helper(method="POST", path="/v1/audio/tts", answer=self._tts, units=0.05, charged=True),
            Helper(
                method="POST", path="/v1/videos/identify-face", answer=self._identify_face, units=0.05, charged=True
            ),
            Helper(method="POST", path="/v1/videos/image-recognize", answer=_recognize, units=0.1, charged=True),
            Helper(method="POST", path=f"{selection}/init-selection", answer=self._init_selection),
            *(
                Helper(method="POST", path=f"{selection}/{step}-selection", answer=partial(self._select, step=step))
                for step in ("add", "delete", "clear", "preview")
            ),
            Helper(method="GET", path=f"{general}/presets-voices", answer=partial(_presets, make=_preset_voice)),
            *(
                Helper(method="GET", path=f"{general}/{name}", answer=partial(_presets, make=_preset_element))
                for name in ("advanced-presets-elements", "presets-elements")
            ),
            Helper(method="POST", path=f"{general}/delete-voices", answer=self._delete_voice),
            Helper(method="POST", path=f"{general}/delete-advanced-elements", answer=self._delete_element),
            Helper(method="POST", path=f"{general}/delete-elements", answer=self._delete_old_element),
            Helper(method="POST", path=f"{general}/custom-elements", answer=self._make_element, charged=True),
            Helper(method="GET", path=f"{general}/custom-elements", answer=self._list_elements),
            Helper(method="GET", path="/account/costs", answer=_costs),
        ]

    def answer(self, call: Helper, raw: bytes, query: Mapping[str, str], account: str) -> Any:  # noqa: ANN401 - JSON
        """Return the `data` of the answer, and enter its price into the ledger. Raises `Refusal`."""
        given = json_object(raw) if call.method == "POST" else dict(query)
        data = call.answer(given, account)
        if call.charged:
            self._ledger.charge(call.path, account, call.units)
            if isinstance(data, dict) and call.units:
                data["final_unit_deduction"] = f"{call.units:g}"
        return data

    def _tts(self, body: JsonObject, account: str) -> JsonObject:  # noqa: ARG002 - the signature of an answer
        _required(body, "text", "voice_id")
        if not isinstance(body["text"], str) or len(body["text"]) > _TEXT_LIMIT:
            raise Refusal(1201, f"text is a text of at most {_TEXT_LIMIT} characters")
        speed = body.get("voice_speed", 1)
        if isinstance(speed, bool) or not isinstance(speed, int | float) or not _SPEEDS[0] <= speed <= _SPEEDS[1]:
            raise Refusal(1201, "voice_speed is from 0.8 to 2")
        if body["voice_id"] not in TTS_VOICES and self._made("voice", body["voice_id"]) is None:
            raise Refusal(1201, VOICE_NOT_FOUND)
        now, number = _now(), len(self._ledger.charges)
        audio = {"id": f"audio-{number}", "url": f"https://sandbox.example/{number}.mp3", "duration": "1.2"}
        result = {"audios": [audio]}
        task_id = f"tts-{number}"
        return {"task_id": task_id, "task_status": SUCCEED, "task_result": result, "created_at": now, "updated_at": now}

    def _identify_face(self, body: JsonObject, account: str) -> JsonObject:  # noqa: ARG002
        face = {"face_id": "0", "face_image": "https://sandbox.example/face.png", "start_time": 0, "end_time": 5200}
        return {"session_id": self._new_session(body), "face_data": [face]}

    def _init_selection(self, body: JsonObject, account: str) -> JsonObject:  # noqa: ARG002
        return {
            "status": 0,
            "session_id": self._new_session(body),
            "fps": 24.0,
            "original_duration": 5000,
            "width": 720,
            "height": 1280,
            "total_frame": 120,
            "normalized_video": "https://sandbox.example/normalized.mp4",
        }

    def _new_session(self, body: JsonObject) -> str:
        if len([name for name in _SOURCE if body.get(name)]) != 1:
            raise Refusal(1201, "send exactly one of video_id and video_url")
        session = f"session-{len(self._sessions) + 1}"
        self._sessions.add(session)
        return session

    def _select(self, body: JsonObject, account: str, *, step: str) -> JsonObject:  # noqa: ARG002
        _required(body, "session_id")
        if body["session_id"] not in self._sessions:
            raise Refusal(1201, SESSION_NOT_FOUND)
        if step == "clear":
            return {"status": 0}
        if step == "preview":
            video = "https://sandbox.example/preview.mp4"
            return {"status": 0, "res": {"video": video, "video_cover": video, "tracking_output": video}}
        points = body.get("points")
        if not isinstance(body.get("frame_index"), int) or not isinstance(points, list):
            raise Refusal(1201, "frame_index and points: must not be null")
        if not 0 < len(points) <= _POINTS_LIMIT:
            raise Refusal(1201, f"points has 1 to {_POINTS_LIMIT} entries")
        return {"status": 0, "res": {"frame_index": body["frame_index"], "rle_mask_list": []}}

    def _delete_voice(self, body: JsonObject, account: str) -> JsonObject:  # noqa: ARG002
        return self._delete(body, "voice", VOICE_NOT_FOUND)

    def _delete_element(self, body: JsonObject, account: str) -> JsonObject:  # noqa: ARG002
        return self._delete(body, "element", ELEMENT_NOT_FOUND)

    def _delete_old_element(self, body: JsonObject, account: str) -> JsonObject:  # noqa: ARG002
        _required(body, "element_id")
        if self._elements.pop(str(body["element_id"]), None) is None:
            raise Refusal(1201, ELEMENT_NOT_FOUND)
        return {"task_id": f"delete-{body['element_id']}", "task_status": SUCCEED}

    def _delete(self, body: JsonObject, type_: str, unknown: str) -> JsonObject:
        field = f"{type_}_id"
        _required(body, field)
        its_id = str(body[field])
        if self._made(type_, its_id) is None:
            raise Refusal(1201, unknown)
        self._deleted.add(its_id)
        return {"task_id": f"delete-{its_id}", "task_status": SUCCEED}

    def _make_element(self, body: JsonObject, account: str) -> JsonObject:
        _required(body, "element_name", "element_description", "element_frontal_image", "element_refer_list")
        its_id = _FIRST_ELEMENT + len(self._ledger.charges)
        element = {"element_id": its_id, "element_name": body["element_name"], "owned_by": account}
        self._elements[str(its_id)] = element
        return dict(element)

    def _list_elements(self, query: JsonObject, account: str) -> list[JsonObject]:  # noqa: ARG002
        elements = list(reversed(self._elements.values()))
        first, last = page_bounds(query)
        return [_listed({"elements": [element]}) for element in elements[first:last]]

    def _made(self, type_: str, its_id: object) -> Task | None:
        """Return the task that made a voice or an element, unless it is deleted."""
        for task in self._ledger:
            made = type_ in {entry.type for entry in task.entries} and task.state.status == SUCCEED
            if made and shapes.result_id(task, 0) == its_id and its_id not in self._deleted:
                return task
        return None


def _recognize(body: JsonObject, account: str) -> JsonObject:  # noqa: ARG001 - the signature of an answer
    _required(body, "image")
    images = [{"type": type_, "is_contain": True, "url": f"https://sandbox.example/{type_}.png"} for type_ in _SEGMENTS]
    return {"task_result": {"images": images}}


def _presets(query: JsonObject, account: str, *, make: Callable[[], list[JsonObject]]) -> list[JsonObject]:  # noqa: ARG001
    first, last = page_bounds(query)
    return [_listed(each) for each in make()[first:last]]


def _preset_voice() -> list[JsonObject]:
    return [
        {"voices": [{"voice_id": voice, "voice_name": voice, "trial_url": "", "owned_by": "kling"}]}
        for voice in PRESET_VOICES
    ]


def _preset_element() -> list[JsonObject]:
    return [
        {"elements": [{"element_id": element, "element_name": "preset", "owned_by": "kling", "status": SUCCEED}]}
        for element in PRESET_ELEMENTS
    ]


def _listed(result: JsonObject) -> JsonObject:
    """Return one entry of a list in the shape of a task."""
    return {"task_id": "", "task_status": SUCCEED, "task_result": result}


def _costs(query: JsonObject, account: str) -> JsonObject:  # noqa: ARG001
    for name in ("start_time", "end_time"):
        if not str(query.get(name, "")).isdecimal():
            raise Refusal(1201, f"{name}: must not be null")
    pack = {
        "resource_pack_name": "Video pack",
        "resource_pack_id": "pack-1",
        "resource_pack_type": "decreasing_total",
        "total_quantity": 200.0,
        "remaining_quantity": 118.0,
        "purchase_time": 1726124664368,
        "effective_time": 1726124664368,
        "invalid_time": 1727366400000,
        "status": "online",
    }
    return {"code": 0, "msg": "success", "resource_pack_subscribe_infos": [pack]}


def _required(body: JsonObject, *names: str) -> None:
    for name in names:
        if body.get(name) in (None, "", []):
            raise Refusal(1201, f"{name}: must not be null")


def _now() -> int:
    return int(time.time() * 1000)
