"""Writes docs/reference/kling-kinds.md from the code's tables: run ``python -m tests.kinds_page``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tracker.providers.kling_bodies import BODIES
from tracker.providers.kling_bounds import bound_of, plain_schema
from tracker.providers.kling_fields import CreateBody
from tracker.providers.kling_kinds import KINDS
from tracker.providers.kling_order import CALLBACK_URL, EXTERNAL_ID, OPTIONS

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "kling-kinds.md"
HEAD: Final = """\
<!-- made by tests/kinds_page.py -->

# Kling's kinds of tasks

Homing submits and tracks every kind below at its own path, with and without `/kling`. [The gateway](gateway.md)
describes the answers. There are three dialects:

- kinds such as `videos/text2video` are at `POST /v1/{kind}`;
- `text-to-video`, `image-to-video`, `omni-video` and `motion-control` have the model in the path: `POST
  /{kind}/{model}`, such as `POST /text-to-video/kling-3.0`;
- kinds below `solutions/` are at `POST /{kind}`.

- **Results**: their types. In `task_result` they are under `images`, `videos`, `audios`, `voices` and `elements`.
- **Usual time**: how long Homing expects a task to run, until it has learned better.
- **Slots**: the fields that say how many of the account's slots a request takes. Without a field it is one, or
  not documented.
- **Lookup**: whether the provider documents a query by external ID. Without it, a submission whose answer was lost
  stays unresolved until a callback or the operator names its ID. Homing never submits it again by itself.

| Kind | Results | Usual time | Slots | Lookup |
| --- | --- | ---: | --- | --- |
"""
FIELDS: Final = """
## Fields

Homing checks the fields below. It refuses a value only if no edition of the provider's documentation allows it. All
other fields go to the provider unchanged. An empty text and a `null` count as missing. A picture, a sound or a video in
Base64 is forwarded, and the task keeps only its digest and its size.

Every kind also takes these two, at the top of the body of a kind below `/v1`, and else within `options`:

- `external_task_id`: {external_id};
- `callback_url`: {callback_url}.
"""


def page() -> str:
    """Return the page as it has to be."""
    common: Any = plain_schema(CreateBody)["properties"]
    fields = FIELDS.format(external_id=bound_of(common[EXTERNAL_ID]), callback_url=bound_of(common[CALLBACK_URL]))
    return HEAD + "".join(map(_row, KINDS)) + fields + "".join(map(_section, KINDS))


def _row(name: str) -> str:
    kind = KINDS[name]
    slots = ", ".join(f"`{field}`" for field in kind.slots) or "1"
    lookup = "yes" if kind.looks_up else "no"
    anchor = name.replace("/", "")
    return f"| [`{name}`](#{anchor}) | {', '.join(kind.results)} | {kind.seconds} s | {slots} | {lookup} |\n"


def _section(name: str) -> str:
    rows = "".join(
        f"| `{path}` | {needed} | {bound} |\n" for path, needed, bound in _fields(plain_schema(BODIES[name]))
    )
    return f"\n### {name}\n\n| Field | Required | Value |\n| --- | --- | --- |\n{rows}"


def _fields(schema: Any, above: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the path of each field, whether it is required, and its bound. The fields within a field follow it."""
    required = schema.get("required", [])
    groups = [[one["required"][0] for one in group["anyOf"]] for group in schema.get("allOf", [])]
    properties = schema["properties"]
    first = [*required, *(name for group in groups for name in group)]
    for name in sorted(properties, key=lambda name: name not in first):
        if name in {EXTERNAL_ID, CALLBACK_URL, OPTIONS}:
            continue
        needed = "yes" if name in required else ""
        for group in groups:
            if name in group:
                needed = "or ".join(["yes, "] + [f"`{other}`" for other in group if other != name])
        field = properties[name]
        path = f"{above}{name}"
        yield path, needed, bound_of(field)
        inside = field.get("items", field)
        if "properties" in inside:
            yield from _fields(inside, path + ("[]." if "items" in field else "."))


if __name__ == "__main__":
    PAGE.write_text(page())
