"""Kling's helper calls: the calls that it answers at once, without a task.

Documentation: https://kling.ai/document-api, the pages of text to speech, lip-sync, image recognition, multi-elements,
custom voices, custom elements and account information. The calls for speech, faces and recognition cost units
("Pricing"). The older call for elements makes one at once, so a repeat would make a second one.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from tracker.errors import InvalidRequest
from tracker.model.provider_objects import ID_FIELDS, ObjectRef, ObjectType, objects_in
from tracker.model.untrusted import ID_LENGTH, JsonObject, identifier
from tracker.providers.base import Accepted, Call, Duplicate, Reply, Unknown
from tracker.providers.helper_calls import HelperAnswer, HelperCall, HelperOutcome, HelperRequest
from tracker.providers.kling_fields import (
    DESCRIPTION_LENGTH,
    ElementId,
    Media,
    Name,
    Part,
    Point,
    Required,
    RequiredMedia,
    Speed,
)
from tracker.providers.kling_order import CALLBACK_URL, EXTERNAL_ID, check_body, without_empty
from tracker.providers.kling_replies import open_envelope
from tracker.providers.kling_submits import read_submit
from tracker.providers.stored_fields import canonical

TEXT_LENGTH: Final = 1_000
MAX_POINTS: Final = 10
MAX_REFERENCES: Final = 3
# These calls have no callback and no external ID. Homing does not forward a client's, because they would act outside of
# Homing: the provider would call the client itself, and external IDs belong to the whole account.
NOT_FORWARDED: Final = frozenset({CALLBACK_URL, EXTERNAL_ID})
# A text that no error message contains, in the place of an external ID.
NO_EXTERNAL_ID: Final = "\0"

VOICE_NOT_FOUND: Final = "Voice id not found"
ELEMENT_NOT_FOUND: Final = "Element id not found"
# Assumed: nobody has published the text for a session.
SESSION_NOT_FOUND: Final = "Session id not found"
SCRUBBED_COSTS: Final[JsonObject] = {
    "code": 0,
    "message": "SUCCEED",
    "data": {"code": 0, "msg": "success", "resource_pack_subscribe_infos": []},
}


class TtsBody(Part, kw_only=True):
    """``audio/tts``."""

    text: Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH)]
    voice_id: Required
    voice_language: str | None = None
    voice_speed: Speed | None = None


class SourceVideoBody(Part, kw_only=True):
    """``videos/identify-face`` and ``videos/multi-elements/init-selection``: the video."""

    any_of: ClassVar = (("video_id", "video_url"),)

    video_id: str | None = None
    video_url: Media | None = None


class ImageRecognizeBody(Part, kw_only=True):
    """``videos/image-recognize``."""

    image: RequiredMedia


class SessionBody(Part, kw_only=True):
    """``videos/multi-elements/clear-selection`` and ``preview-selection``."""

    session_id: Required


class SelectionBody(SessionBody, kw_only=True):
    """``videos/multi-elements/add-selection`` and ``delete-selection``."""

    frame_index: int
    points: Annotated[list[Point], Meta(min_length=1, max_length=MAX_POINTS)]


class DeleteVoiceBody(Part, kw_only=True):
    """``general/delete-voices``."""

    voice_id: Required


class DeleteElementBody(Part, kw_only=True):
    """``general/delete-advanced-elements`` and ``general/delete-elements``."""

    element_id: ElementId


class OldElementBody(Part, kw_only=True):
    """``general/custom-elements``, the older one."""

    element_name: Name
    element_description: Annotated[str, Meta(min_length=1, max_length=DESCRIPTION_LENGTH)]
    element_frontal_image: RequiredMedia
    element_refer_list: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_REFERENCES)]


SELECTION: Final = "/v1/videos/multi-elements"
# Each call, and the shape of its body. Documented: all of them; their units where ``recorded``.
_CALLS: Final[tuple[tuple[HelperCall, type[Part] | None], ...]] = (
    (
        HelperCall(
            method="POST",
            path="/v1/audio/tts",
            group="tts",
            recorded=True,
            uses=ObjectType.VOICE,
            not_found=VOICE_NOT_FOUND,
        ),
        TtsBody,
    ),
    (
        HelperCall(
            method="POST",
            path="/v1/videos/identify-face",
            group="identify-face",
            recorded=True,
            makes=ObjectType.SESSION,
        ),
        SourceVideoBody,
    ),
    (
        HelperCall(method="POST", path="/v1/videos/image-recognize", group="image-recognize", recorded=True),
        ImageRecognizeBody,
    ),
    (
        HelperCall(method="POST", path=f"{SELECTION}/init-selection", group="selections", makes=ObjectType.SESSION),
        SourceVideoBody,
    ),
    *(
        (
            HelperCall(
                method="POST",
                path=f"{SELECTION}/{step}-selection",
                group="selections",
                needs=ObjectType.SESSION,
                not_found=SESSION_NOT_FOUND,
            ),
            shape,
        )
        for step, shape in (
            ("add", SelectionBody),
            ("delete", SelectionBody),
            ("clear", SessionBody),
            ("preview", SessionBody),
        )
    ),
    *(
        (HelperCall(method="GET", path=f"/v1/general/{name}", group="presets"), None)
        for name in ("presets-voices", "advanced-presets-elements", "presets-elements")
    ),
    (
        HelperCall(
            method="POST",
            path="/v1/general/delete-voices",
            group="voices",
            needs=ObjectType.VOICE,
            deletes=True,
            not_found=VOICE_NOT_FOUND,
        ),
        DeleteVoiceBody,
    ),
    *(
        (
            HelperCall(
                method="POST",
                path=f"/v1/general/{name}",
                group="elements",
                needs=ObjectType.ELEMENT,
                deletes=True,
                not_found=ELEMENT_NOT_FOUND,
            ),
            DeleteElementBody,
        )
        for name in ("delete-advanced-elements", "delete-elements")
    ),
    (
        HelperCall(
            method="POST",
            path="/v1/general/custom-elements",
            group="elements",
            recorded=True,
            makes=ObjectType.ELEMENT,
        ),
        OldElementBody,
    ),
    (
        HelperCall(method="GET", path="/v1/general/custom-elements", group="elements", lists=ObjectType.ELEMENT),
        None,
    ),
    (HelperCall(method="GET", path="/account/costs", group="costs", scrubbed=SCRUBBED_COSTS), None),
)
HELPERS: Final = tuple(helper for helper, _ in _CALLS)
GROUPS: Final = tuple(dict.fromkeys(helper.group for helper in HELPERS))
HELPER_BODIES: Final[Mapping[str, type[Part]]] = MappingProxyType(
    {helper.name: shape for helper, shape in _CALLS if shape is not None}
)


def helper_request(
    helper: HelperCall, *, body: JsonObject | None = None, query: Mapping[str, str] | None = None
) -> HelperRequest:
    """Validate a client's helper call. Raises: InvalidRequest, with the field and its bound."""
    if body is None:
        call = Call(method=helper.method, path=helper.path, query=dict(query or {}))
        return _request(helper, call, "")
    shape = HELPER_BODIES[helper.name]
    given = without_empty(body, shape)
    check_body(given, shape)
    # A call on the client's own object gets no other field, because that could name another object.
    known = shape.__struct_fields__ if helper.needs is not None else given.keys() - NOT_FORWARDED
    sent = {name: value for name, value in given.items() if name in known}
    named = helper.uses or helper.needs
    if named is not None:
        field = ID_FIELDS[named]
        if identifier(sent.get(field)) is None:
            raise InvalidRequest(f"{field} must have 1 to {ID_LENGTH} printable characters")
    call = Call(method=helper.method, path=helper.path, body=json.dumps(sent, separators=(",", ":")).encode())
    objects = objects_in(sent, named) if named is not None else []
    return _request(helper, call, canonical(sent), objects)


def _request(helper: HelperCall, call: Call, content: str, objects: Collection[ObjectRef] = ()) -> HelperRequest:
    return HelperRequest(
        helper=helper,
        call=call,
        request_hash=hashlib.sha256(f"{helper.name} {content}".encode()).hexdigest(),
        read=read_helper,
        objects=tuple(objects),
    )


def read_helper(reply: Reply) -> HelperOutcome:
    """Read the answer to a helper call. What shows that nothing was done is the same as for a create request."""
    envelope = open_envelope(reply)
    if envelope.fine and "data" in envelope.body:
        return HelperAnswer(body=envelope.body, http_status=envelope.status)
    outcome = read_submit(reply, external_id=NO_EXTERNAL_ID)
    # Neither can be read from an answer that is not successful and names no external ID.
    return Unknown(why=envelope.outline) if isinstance(outcome, Accepted | Duplicate) else outcome
