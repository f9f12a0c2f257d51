"""Helper calls: the calls of a provider that it answers at once, without a task. Values only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracker.model.provider_objects import ObjectRef, ObjectType
from tracker.model.untrusted import JsonObject
from tracker.providers.base import BadCredential, Busy, Call, NoSuchCall, Rejected, Reply, Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperAnswer:
    """A successful answer, in the provider's envelope. Its texts may repeat the credential: mask it first."""

    body: JsonObject
    http_status: int = 200


HelperOutcome = HelperAnswer | Rejected | Busy | BadCredential | NoSuchCall | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperCall:
    """One helper call.

    - ``name`` is the method and the path, ``group`` the calls that are switched on and off together.
    - ``recorded``: it costs or makes something, so Homing records it before it is sent, and never sends it twice.
    - ``uses``: the request may name such an object, but not one of another client.
    - ``needs``: the request names such an object, which belongs to the client. ``deletes``: and then it is gone.
    - ``makes``: the answer names such objects, which then belong to the client.
    - ``lists``: each entry of the answer is such an object. A client gets only its own.
    - ``scrubbed``: the answer for clients that do not see all clients. It needs no request to the provider.
    - ``not_found`` is the provider's error text for an unknown object.
    """

    method: str
    path: str
    group: str
    recorded: bool = False
    uses: ObjectType | None = None
    needs: ObjectType | None = None
    deletes: bool = False
    makes: ObjectType | None = None
    lists: ObjectType | None = None
    scrubbed: JsonObject | None = None
    not_found: str = ""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperRequest:
    """A validated helper call of a client, and how to read its answer.

    ``objects`` are the objects that the request names, of the type that the call uses or needs.
    """

    helper: HelperCall
    call: Call
    request_hash: str
    read: Callable[[Reply], HelperOutcome]
    objects: Sequence[ObjectRef] = ()
