"""Tests of reading a report about a task from the JSON of Kling, in both dialects."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tracker.model.task import Asset, Report, Status
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.providers.kling import Kling
from tracker.providers.kling_reports import STATUSES

SAMPLES = Path(__file__).parents[2] / "samples" / "kling" / "callback"
UPDATED = datetime(2026, 6, 10, 8, 40, 19, 402000, tzinfo=UTC)
CDN = "https://p1-kling.klingai.com/kcdn/kling-result/"


def read(**fields: JsonValue) -> Report:
    body: JsonObject = {"task_id": "1", "task_status": "succeed", "updated_at": 1781080819402, **fields}
    return Kling().read_callback(json.dumps(body).encode())


def sample(name: str) -> Report:
    return Kling().read_callback((SAMPLES / f"{name}.json").read_bytes())


def test_legacy_callback_is_read_completely() -> None:
    report = sample("succeeded/legacy-with-watermark")
    assert report == Report(
        provider_task_id="842250903629086787",
        external_id="hm01k9tsv5me8kq3x1w7c0b2n4ra",
        status=Status.SUCCEEDED,
        provider_status="succeed",
        assets=(
            Asset(
                kind="image",
                url=CDN + "image-0.png?x-kcdn-pid=112452&ss=sig",
                watermark_url=CDN + "image-0-watermark.png",
                expires_at=UPDATED + timedelta(days=30),
            ),
            Asset(
                kind="image",
                url=CDN + "image-1.png?x-kcdn-pid=112452&ss=sig",
                index=1,
                expires_at=UPDATED + timedelta(days=30),
            ),
        ),
        price={"final_unit_deduction": "16", "final_balance_deduction": {"quota": "0", "list_price": "0"}},
        created_at=datetime(2026, 6, 10, 8, 39, 38, 802000, tzinfo=UTC),
        updated_at=UPDATED,
    )


def test_both_dialects_report_the_same_facts() -> None:
    legacy, new = sample("succeeded/legacy-with-watermark"), sample("succeeded/new")
    assert new.provider_status == "succeeded"
    assert new.assets == legacy.assets
    for name in ("provider_task_id", "external_id", "status", "message", "created_at", "updated_at"):
        assert getattr(new, name) == getattr(legacy, name)


def test_envelope_does_not_change_the_report() -> None:
    assert sample("succeeded/legacy-in-envelope") == sample("succeeded/legacy-flat")


def test_gateway_wrapper_is_opened() -> None:
    assert sample("succeeded/gateway-wrapper") == sample("succeeded/legacy-with-watermark")


@pytest.mark.parametrize("status", [*STATUSES, "cancelled", "suc ceed", ""])
def test_only_documented_status_is_mapped(status: str) -> None:
    report = read(task_status=status)
    assert (report.provider_status, report.status, report.flaw) == (status, STATUSES.get(status), None)


@pytest.mark.parametrize("status", ["SUCCEED", " succeed", "Succeed\n"])
def test_status_ignores_case_and_spaces(status: str) -> None:
    report = read(task_status=status)

    assert (report.provider_status, report.status) == (status, Status.SUCCEEDED)


@pytest.mark.parametrize("status", [None, 3, ["succeed"], {"a": 1}, True])
def test_non_text_status_is_ignored(status: JsonValue) -> None:
    report = read(task_status=status)
    assert (report.provider_status, report.status, report.flaw) == (None, None, None)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"images": [{"index": 4, "url": "https://x/"}]}, [("image", "single", 4, None)]),
        ({"images": [{"index": "int", "url": "https://x/"}]}, [("image", "single", 0, None)]),
        ({"images": [{"index": 2**40, "url": "https://x/"}]}, [("image", "single", 0, None)]),
        ({"images": [{"index": -1, "url": "https://x/"}]}, [("image", "single", 0, None)]),
        (
            {"series_images": [{"url": "https://x/"}, {"url": "https://x/"}]},
            [("image", "series", 0, None), ("image", "series", 1, None)],
        ),
        (
            {"videos": [{"id": "v", "url": "https://x/", "duration": "3.041"}]},
            [("video", "single", 0, "3.041")],
        ),
        ({"videos": [{"id": "v", "url": "https://x/", "duration": 5}]}, [("video", "single", 0, "5")]),
        (
            {"audios": [{"id": "a", "url_mp3": "https://x/", "url_wav": "https://x/", "duration_wav": "2"}]},
            [("audio", "mp3", 0, None), ("audio", "wav", 0, "2")],
        ),
        ({"voices": [{"voice_id": "9", "trial_url": "https://x/"}]}, [("voice", "single", 0, None)]),
        ({"elements": [{"element_id": 829836802793406551}]}, [("element", "single", 0, None)]),
        (
            {"images": [{"index": 2, "url_1": "https://x/", "url_2": "https://x/", "url_3": "https://x/"}]},
            [("image", "view-1", 2, None), ("image", "view-2", 2, None), ("image", "view-3", 2, None)],
        ),
        (
            {"videos": [{"id": "v", "url": "https://x/"}], "audios": [{"id": "a", "url_mp3": "https://x/"}]},
            [("video", "single", 0, None), ("audio", "mp3", 0, None)],
        ),
        (
            {
                "audios": [{"id": "a", "url_wav": "https://x/", "url_mp3": "https://x/"}],
                "images": [{"url": "https://x/"}],
            },
            [("image", "single", 0, None), ("audio", "mp3", 0, None), ("audio", "wav", 0, None)],
        ),
        ({"videos": [{"url": "https://x/", "index": True, "duration": True}]}, [("video", "single", 0, None)]),
        ({"videos": [None, "v", {"url": "https://x/", "duration": 1.5}]}, [("video", "single", 2, "1.5")]),
    ],
)
def test_results_of_legacy_products_are_found(result: JsonValue, expected: list[tuple[object, ...]]) -> None:
    found = [(asset.kind, asset.group, asset.index, asset.duration) for asset in read(task_result=result).assets]
    assert found == expected


@pytest.mark.parametrize(
    ("legacy", "new"),
    [
        (
            {"audios": [{"id": "a", "url_mp3": "https://x/1", "url_wav": "https://x/2", "duration_mp3": "3"}]},
            {"type": "audio", "id": "a", "mp3_url": "https://x/1", "wav_url": "https://x/2", "mp3_duration": "3"},
        ),
        (
            {"series_images": [{"index": 0, "url": "https://x/"}]},
            {"type": "image", "url": "https://x/", "group_id": "g"},
        ),
        ({"voices": [{"voice_id": "9", "trial_url": "https://x/"}]}, {"type": "voice", "id": "9", "url": "https://x/"}),
        ({"elements": [{"element_id": 7}]}, {"type": "element", "id": "7", "materials": []}),
        (
            {"videos": [{"id": "v", "url": "https://x/", "duration": "5.1", "watermark_url": "https://x/w"}]},
            {"type": "video", "id": "v", "url": "https://x/", "duration": "5.1", "watermark_url": "https://x/w"},
        ),
    ],
)
def test_results_are_equal_in_both_dialects(legacy: JsonValue, new: JsonValue) -> None:
    assets = read(task_result=legacy).assets
    assert assets
    assert read(outputs=[new]).assets == assets


def test_output_of_unknown_type_is_a_file() -> None:
    [asset] = read(outputs=[{"type": ["hologram"], "url": "https://x/"}]).assets
    assert asset.kind == "file"


def test_results_of_both_dialects_are_numbered_once() -> None:
    image: JsonObject = {"type": "image", "url": "https://x/"}
    report = read(task_result={"images": [image, {}]}, outputs=[image, {**image, "group_id": "g"}, "image", image])
    assert [(asset.group, asset.index) for asset in report.assets] == [
        ("single", 0),
        ("single", 2),
        ("series", 0),
        ("single", 3),
    ]
    assert report.message.startswith("(2 more result(s)")


def test_result_without_update_time_has_no_expiry() -> None:
    [asset] = read(task_result={"images": [{"url": "https://x/"}]}, updated_at="later").assets
    assert asset.expires_at is None


@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", "data:image/png;base64,AA", "ftp://x/", "http\u017f://x/", "https:/x", "//x/", "://x"),
        *("https://", "https:///x", "https://\\x", "https://x\\@y/", "https:// x/", "https://x/ y", "https://x/\n"),
        *("https://x/\u3000", "https://x/\u2028", 7, "", ["https://x/"]),
    ],
)
def test_invalid_result_url_is_left_out(url: JsonValue) -> None:
    report = read(task_result={"images": [{"index": 0, "url": url}, {"index": 1, "url": "https://x/"}]})
    assert [asset.index for asset in report.assets] == [1]
    assert "1 more result(s)" in report.message
    assert report.status is Status.SUCCEEDED


@pytest.mark.parametrize("url", ["https://x", "HTTPS://X/", "hTTp://x/", "https://x/?u=http://y", "https://x/é?语"])
def test_result_url_is_kept_as_written(url: str) -> None:
    [asset] = read(task_result={"images": [{"url": url, "watermark_url": url}]}).assets
    assert (asset.url, asset.watermark_url) == (url, url)


def test_too_many_or_long_results_are_left_out() -> None:
    images: list[JsonValue] = [{"url": f"https://x/{n}"} for n in range(130)]
    long: JsonValue = {"url": "https://x/" + "a" * 4087}
    report = read(task_status_msg="done", task_result={"images": [long, *images]})
    assert len(report.assets) == 100
    assert report.message.startswith("done (31 more result(s)")
    audios: list[JsonValue] = [{"url": "https://x/", "url_mp3": "https://x/", "url_wav": "https://x/"}] * 34
    report = read(task_result={"audios": audios})
    assert len(report.assets) == 100
    assert report.message.startswith("(2 more result(s)")
    fits: JsonValue = {"url": "https://x/" + "a" * 4086}
    assert len(read(task_result={"images": [fits]}).assets) == 1


def test_left_out_results_are_counted_by_reason() -> None:
    images: list[JsonValue] = [{"url": f"https://x/{n}"} for n in range(102)]
    bad: list[JsonValue] = [{"url": "https://x/" + "a" * 4087}, {"url": ""}, None]

    report = read(task_result={"images": [*bad, *images]})

    reasons = "1 with a URL beyond 4096 characters, 2 with no usable URL, 2 beyond 100 files"
    assert report.message == f"(5 more result(s) left out: {reasons})"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_status": "failed", "message": "blocked"}, "blocked"),
        ({"task_status": "failed", "task_status_msg": "", "message": "blocked"}, "blocked"),
        ({"task_status": "failed", "task_status_msg": "unsafe", "message": "blocked"}, "unsafe"),
        ({"status": "failed", "message": "blocked"}, "blocked"),
        ({"task_status": "failed", "code": 0, "message": "SUCCEED"}, ""),
    ],
)
def test_failed_task_keeps_its_reason(fields: JsonObject, message: str) -> None:
    assert read(**fields).message == message


def test_missing_result_is_empty() -> None:
    nothing: tuple[JsonValue, ...] = (None, {}, [], "", {"images": None}, {"images": {}}, {"images": []})
    for empty in nothing:
        report = read(task_result=empty, outputs=empty)
        assert (report.assets, report.message) == ((), "")


@pytest.mark.parametrize(
    "fields",
    [
        {"final_unit_deduction": "", "final_balance_deduction": {}, "billing": []},
        {"final_unit_deduction": None},
        {"billing": [{"amount": "1" * 5000}]},
    ],
)
def test_empty_or_huge_price_is_ignored(fields: JsonObject) -> None:
    assert read(**fields).price == {}


@pytest.mark.parametrize(
    ("fits", "absurd"),
    [
        ("1" * 4094, "1" * 4095),
        ("é" * 682, "é" * 683),
        ("\x7f" * 682, "\x7f" * 683),
        ([1] * 1365, [1] * 1366),
        ({"amount": "1" * 4082}, {"amount": "1" * 4083}),
    ],
)
def test_price_limit_counts_ascii_json(fits: JsonValue, absurd: JsonValue) -> None:
    assert read(final_unit_deduction=fits).price == {"final_unit_deduction": fits}
    assert read(final_unit_deduction=absurd, billing=[1]).price == {"billing": [1]}


@pytest.mark.parametrize("body", [{"task_status": "succeed"}, {"task_id": ""}, {"task_id": "a" * 201}, {"id": [1]}, {}])
def test_body_without_task_id_is_flawed(body: JsonObject) -> None:
    report = Kling().read_callback(json.dumps(body).encode())
    assert report == Report(flaw="it has no task ID")


def test_external_id_alone_identifies_a_task() -> None:
    body: JsonObject = {"task_status": "processing", "task_info": {"external_task_id": "hm1"}}
    report = Kling().read_callback(json.dumps(body).encode())
    assert (report.provider_task_id, report.external_id, report.status) == (None, "hm1", Status.PROCESSING)


def test_numeric_id_becomes_its_digits() -> None:
    assert read(task_id=842250903629086787).provider_task_id == "842250903629086787"


def test_error_envelope_is_not_a_report() -> None:
    body: JsonObject = {"code": 5000, "message": "x", "data": {"task_id": "1", "task_status": "failed"}}
    report = Kling().read_callback(json.dumps(body).encode())
    assert report == Report(flaw="an error with code 5000, not a task")


@pytest.mark.parametrize("code", [0, 200, "0", "success", None, True, False, "5000", 1.5, [5000]])
def test_other_code_does_not_hide_a_task(code: JsonValue) -> None:
    body: JsonObject = {"code": code, "data": {"task_id": "1", "task_status": "failed"}}
    assert Kling().read_callback(json.dumps(body).encode()).status is Status.FAILED


def test_innermost_object_with_id_is_the_task() -> None:
    task: JsonObject = {"task_id": "1", "data": {"id": "2", "data": {"status": "failed", "data": {"id": "3"}}}}
    assert Kling().read_callback(json.dumps(task).encode()).provider_task_id == "3"
    assert Kling().read_callback(json.dumps({"data": task}).encode()).provider_task_id == "2"
    assert Kling().read_callback(json.dumps({"data": [task]}).encode()) == Report(flaw="it has no task ID")
