"""Every provider passes the shared suite. A new one is a ``ProviderCase`` in ``CASES`` and its samples."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.suites.provider_case import ProviderCase, Sample, samples_of
from tests.suites.provider_suite import ProviderSuite, RequestSuite
from tests.support.kling_examples import MODELS, REQUESTS, path_of
from tracker.model.untrusted import JsonValue
from tracker.providers.base import ApiKey, KeyPair
from tracker.providers.kling import Kling
from tracker.providers.replicate import Replicate

SAMPLES = Path(__file__).parents[1] / "samples"
LONG_URL = "https://client.example/" + "a" * 2048

WRONG: tuple[tuple[str, JsonValue], ...] = (
    ("prompt", None),
    ("prompt", ""),
    ("prompt", ["a cat"]),
    ("prompt", "a" * 5001),
    ("model_name", 3),
    ("n", 0),
    ("n", 10),
    ("n", True),
    ("n", 1.5),
    ("n", "1"),
    ("negative_prompt", "a" * 2501),
    ("negative_prompt", 7),
    ("image", ["a"]),
    ("image_fidelity", 1.01),
    ("image_fidelity", -0.01),
    ("image_fidelity", True),
    ("image_fidelity", "0.5"),
    ("aspect_ratio", "5:4"),
    ("aspect_ratio", ["1:1"]),
    ("external_task_id", 7),
    ("external_task_id", "a" * 201),
    ("external_task_id", "a\nb"),
    ("callback_url", "ftp://client.example/"),
    ("callback_url", "https://"),
    ("callback_url", "https://[::1"),
    ("callback_url", LONG_URL),
    ("callback_url", {}),
)

KLING = ProviderCase(
    provider=Kling(),
    samples=SAMPLES / "kling",
    kind="images/omni-image",
    body={
        "model_name": "kling-v3-omni",
        "prompt": "Merge all the people in the images into <<<image_1>>>",
        "image_list": [{"image": "https://client.example/cat.png"}],
        "resolution": "2k",
        "n": 2,
        "aspect_ratio": "21:9",
        "external_task_id": "order-1138",
        "callback_url": "https://client.example/done?task=1138",
    },
    client_id="order-1138",
    client_callback_url="https://client.example/done?task=1138",
    bad=tuple((name, {name: value}) for name, value in WRONG),
    credentials={
        "made-up-key-of-the-tests": ApiKey(key="made-up-key-of-the-tests"),
        "made-up-secret-of-the-tests-32-bytes": KeyPair(
            access_key="made-up-access-key", secret_key="made-up-secret-of-the-tests-32-bytes"
        ),
    },
    task_id="842250903629086787",
    external_id="hm01k9tsv5me8kq3x1w7c0b2n4ra",
)
REPLICATE = ProviderCase(
    provider=Replicate(),
    samples=SAMPLES / "replicate",
    kind="predictions",
    model="black-forest-labs/flux-schnell",
    body={
        "input": {"prompt": "a red bicycle", "num_outputs": 2},
        "webhook": "https://client.example/done?task=1138",
        "webhook_events_filter": ["completed"],
    },
    client_id=None,
    client_callback_url="https://client.example/done?task=1138",
    bad=(
        ("input", {"input": None}),
        ("input", {"input": "a red bicycle"}),
        ("input", {"input": ["a red bicycle"]}),
        ("version", {"version": "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"}),
        ("webhook", {"webhook": 7}),
        ("webhook", {"webhook": "ftp://client.example/"}),
        ("webhook", {"webhook": LONG_URL}),
        ("webhook_events_filter", {"webhook_events_filter": "completed"}),
        ("webhook_events_filter", {"webhook_events_filter": ["finished"]}),
        ("webhook_events_filter", {"webhook_events_filter": [["start"]]}),
    ),
    credentials={"made-up-key-of-the-tests": ApiKey(key="made-up-key-of-the-tests")},
    task_id="gm3qorzdhgbfurvjtvhg6dckhu",
    external_id="hm01k9tsv5me8kq3x1w7c0b2n4ra",
)
CASES = (KLING, REPLICATE)
OPTIONS = {name: KLING.body[name] for name in ("external_task_id", "callback_url")}
# Each kind has fields of its own. A field with a list in a list fits none of them.
KINDS = tuple(
    replace(
        KLING,
        kind=kind,
        model=MODELS.get(kind, ""),
        body=dict(body) | (OPTIONS if path_of(kind).startswith("/v1") else {"options": {"watermark": {}} | OPTIONS}),
        bad=tuple((name.split("_list")[0], {name: [["a list in a list"]]}) for name in body),
    )
    for kind, body in REQUESTS.items()
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.provider.name)
def case(request: pytest.FixtureRequest) -> ProviderCase:
    chosen: ProviderCase = request.param
    return chosen


@pytest.fixture(scope="module", params=[sample for case in CASES for sample in samples_of(case)], ids=str)
def sample(request: pytest.FixtureRequest) -> Sample:
    chosen: Sample = request.param
    return chosen


class TestProviders(ProviderSuite):
    """The suite, once for each provider."""


class TestKinds(RequestSuite):
    """The part about requests, once for each kind of task."""

    @pytest.fixture(params=KINDS, ids=lambda case: case.kind)
    def case(self, request: pytest.FixtureRequest) -> ProviderCase:
        chosen: ProviderCase = request.param
        return chosen
