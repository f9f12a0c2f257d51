"""Builds a Tracker from settings. No I/O happens here."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.subscriber import Subscriber, all_sinks
from tracker.delivery.sinks.urls import SinkContext, create_sinks
from tracker.loops.discovery import Discovery
from tracker.loops.reconciler import Reconciler
from tracker.model.clock import Monotonic, RandomBytes, utc_now
from tracker.model.sinks import SinkSpec
from tracker.providers.base import Account, ApiKey, Credential, KeyPair
from tracker.providers.kling import Kling
from tracker.providers.replicate import Replicate
from tracker.rules.schedule import Policy
from tracker.service.sink_secrets import SinkSecrets
from tracker.service.tracker import Tracker
from tracker.settings import Settings
from tracker.storage.store import Store
from tracker.transport import Sender

LARGEST_BODIES: Final = 3
KLING_CREDENTIAL: Final = "HOMING_KLING_API_KEY, or HOMING_KLING_ACCESS_KEY with HOMING_KLING_SECRET_KEY"


def create_tracker(
    settings: Settings,
    *,
    policy: Policy | None = None,
    clock: Callable[[], datetime] = utc_now,
    monotonic: Monotonic = time.monotonic,
    random_bytes: RandomBytes = secrets.token_bytes,
    store: Store | None = None,
    transport: Sender | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Tracker:
    """Build a Tracker. Open it with ``async with``.

    ``policy`` replaces the delays that the settings choose, ``store`` the database that they name,
    ``transport`` the way to the provider. Where several processes share the database, ``clock`` is a SteeredClock,
    and ``loops.membership`` steers it. ``monotonic`` measures durations, in seconds. All random values come from
    ``random_bytes``. ``subscribers`` are further sinks, next to those of the settings.
    """
    store = store or Store(settings.database_url, schema=settings.database_schema)
    return Tracker(
        store=store,
        accounts=accounts_of(settings),
        public_url=settings.public_url,
        callback_secrets=settings.callback_secrets,
        thresholds=settings.thresholds,
        policy=policy or policy_of(settings),
        clock=clock,
        monotonic=monotonic,
        random_bytes=random_bytes,
        transport=transport or _transport(),
        source=settings.source,
        sinks=all_sinks(settings.sinks, subscribers),
        allowed_targets=settings.allowed_targets,
        helper_groups=settings.helper_groups,
        sink_secrets=SinkSecrets(store.secrets.get, settings.sink_secrets, random_bytes=random_bytes),
    )


def accounts_of(settings: Settings) -> Mapping[str, Account]:
    """Return the account at each provider. One without a credential still receives callbacks."""
    kling = Account(
        name="default",
        provider=Kling(allowed_targets=settings.allowed_targets),
        base_url=settings.kling_base_url,
        credential=_kling_credential(settings),
        credential_settings=KLING_CREDENTIAL,
        address_setting="HOMING_KLING_BASE_URL",
    )
    key = settings.replicate_api_key
    replicate = Account(
        name="default",
        provider=Replicate(allowed_targets=settings.allowed_targets),
        base_url=settings.replicate_base_url,
        credential=None if key is None else ApiKey(key=key),
        credential_settings="HOMING_REPLICATE_API_KEY",
        address_setting="HOMING_REPLICATE_BASE_URL",
    )
    return {account.provider.name: account for account in (kling, replicate)}


def sinks_of(
    settings: Settings, tracker: Tracker, subscribers: Sequence[Subscriber] = ()
) -> list[tuple[SinkSpec, Sink]]:
    """Create the sinks of the settings, of the clients' callback URLs, and of the subscribers.

    Raises: SettingsError.
    """
    context = SinkContext(
        source=settings.source,
        secrets=tracker.sink_secrets,
        clock=tracker.clock,
        allowed=settings.allowed_targets,
    )
    made = create_sinks(settings.sinks, context=context)
    return made + [subscriber.sink(settings.source) for subscriber in subscribers]


def discovery_of(tracker: Tracker) -> Discovery:
    """Create the discovery of tasks that only the provider knows."""
    return Discovery(
        tracker.store,
        tracker.providers,
        tracker.poller,
        tracker.adoption,
        learner=tracker.learner,
        budgets=tracker.budgets,
        clock=tracker.clock,
    )


def reconciler_of(tracker: Tracker) -> Reconciler:
    """Create the reconciler of a tracker's process."""
    return Reconciler(
        store=tracker.store,
        accounts=tracker.providers,
        poller=tracker.poller,
        submission=tracker.submission,
        discovery=discovery_of(tracker),
        learner=tracker.learner,
        budgets=tracker.budgets,
        rules=tracker.rules,
        clock=tracker.clock,
        monotonic=tracker.monotonic,
    )


def policy_of(settings: Settings) -> Policy:
    """Return the delays and limits of the settings."""
    return Policy(
        first_poll_delay=settings.first_poll_delay,
        deadline=settings.deadline,
        deadlines=settings.deadlines,
        budget=settings.polls_per_minute,
        client_budget=settings.client_polls_per_minute,
        retention=settings.retention,
        # The largest body always fits if no other body is in memory.
        submission_capacity=max(Policy().submission_capacity, LARGEST_BODIES * settings.body_limit),
        helper_capacity=max(Policy().helper_capacity, LARGEST_BODIES * settings.body_limit),
    )


def _transport() -> Sender:
    from tracker.transport import Transport  # noqa: PLC0415 - another sender needs no HTTP library

    return Transport()


def _kling_credential(settings: Settings) -> Credential:
    if settings.kling_api_key is not None:
        return ApiKey(key=settings.kling_api_key)
    if settings.kling_access_key is not None and settings.kling_secret_key is not None:
        return KeyPair(access_key=settings.kling_access_key, secret_key=settings.kling_secret_key)
    return None
