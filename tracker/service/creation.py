"""Creates tasks at any provider: one form of create request for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from tracker.errors import InvalidRequest
from tracker.model.targets import Allowed, callback_refusal
from tracker.model.task import ClientIdentity
from tracker.model.untrusted import JsonObject
from tracker.providers.base import Account, Kind, Order, WrongModel
from tracker.service.arguments import account_named, bounded, kind_named
from tracker.service.submission import SubmitRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """A create request in the form that all providers share.

    ``input`` is the provider's own request body, without an external ID and without a callback URL: these are
    ``external_id`` and ``callback_url``. ``model`` is for kinds whose model is in the path of the request. A repeated
    request with the same ``external_id`` or ``idempotency_key`` and the same input returns the same task.
    """

    provider: str
    kind: str
    input: JsonObject
    model: str | None = None
    external_id: str | None = None
    callback_url: str | None = None
    idempotency_key: str | None = None
    deadline: timedelta | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


class Creation:
    """Turns create requests into submissions. The intake is the same as for requests in a provider's own form."""

    def __init__(self, accounts: Mapping[str, Account], allowed: Allowed) -> None:
        self._accounts = accounts
        self._allowed = allowed

    def prepare(self, client: ClientIdentity, request: CreateRequest, *, answered_later: bool) -> SubmitRequest:
        """Validate a request. Raises InvalidRequest."""
        account = account_named(self._accounts, request.provider)
        kind = kind_named(account, request.kind)
        return SubmitRequest(
            client=client,
            account=account,
            kind=kind,
            order=self._order(account, kind, request),
            tags=request.tags,
            metadata=request.metadata,
            idempotency_key=request.idempotency_key,
            deadline=request.deadline,
            answered_later=answered_later,
        )

    def _order(self, account: Account, kind: Kind, request: CreateRequest) -> Order:
        external_id = None if request.external_id is None else bounded(request.external_id, "external_id")
        url = request.callback_url
        if url is not None and (wrong := callback_refusal(url, self._allowed)) is not None:
            raise InvalidRequest(f"callback_url {wrong}")
        try:
            order = account.provider.order(kind.name, request.input, model=request.model or "")
        except WrongModel as error:
            raise InvalidRequest(error.detail) from None
        except InvalidRequest as error:
            raise InvalidRequest(f"input: {error.detail}") from None
        if order.external_id is not None or order.callback_url is not None:
            raise InvalidRequest(
                "input: it has an external ID or a callback URL. Send external_id and callback_url beside input"
            )
        return replace(order, external_id=external_id, callback_url=url)
