"""Objects that a provider keeps for an account, besides tasks: voices, elements and sessions.

A task or a helper call of a client made each of them, so it belongs to that client.
"""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from tracker.model.untrusted import JsonObject, JsonValue, identifier


class ObjectType(StrEnum):
    """The type of an object. A task names its voices and elements as assets of the same kind."""

    VOICE = "voice"
    ELEMENT = "element"
    SESSION = "session"


# The fields of requests and replies that contain an object's ID.
ID_FIELDS: Final = MappingProxyType({type_: f"{type_}_id" for type_ in ObjectType})


class ObjectRef(NamedTuple):
    """The ID of an object at an account."""

    type: ObjectType
    id: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A client to whom an object belongs, and why.

    ``verified``: an answer of the provider showed that this client's call or task made the object. Otherwise it was a
    callback, and a query of the task of ``kind`` with ``provider_task_id`` can verify it.
    """

    provider: str
    account: str
    object: ObjectRef
    client: str
    at: datetime
    kind: str = ""
    provider_task_id: str | None = None
    verified: bool = False


def objects_in(document: JsonValue, type_: ObjectType) -> list[ObjectRef]:
    """Return the objects of a type that a document names, at any depth.

    A provider may also read a field in another spelling, such as ``voiceId``.
    """
    field = _plain(ID_FIELDS[type_])
    found: dict[ObjectRef, None] = {}
    level = [document]
    while level:
        below: list[JsonValue] = []
        for value in level:
            if isinstance(value, dict):
                for name, part in value.items():
                    if _plain(name) == field and (its_id := identifier(part)) is not None:
                        found[ObjectRef(type_, its_id.strip())] = None
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level = below
    return list(found)


def only_own(reply: JsonObject, type_: ObjectType, owned: Collection[ObjectRef]) -> JsonObject | None:
    """Return a list reply with the entries whose objects are all ``owned``. An entry without an object is left out.

    None if the reply has no list: then nothing shows whose objects it names.
    """
    data = reply.get("data")
    if data is None:
        data = []
    if not isinstance(data, list):
        return None
    kept: list[JsonValue] = []
    for entry in data:
        named = objects_in(entry, type_)
        if named and all(each in owned for each in named):
            kept.append(entry)
    return {**reply, "data": kept}


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
