"""`homing submit | expect | adopt`: commands that create tasks or make them known to Homing."""

import asyncio
import base64
import sys
from argparse import Namespace
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from homing.commands.arguments import Commands, Usage, always, count, data_command, duration, entry
from homing.commands.client import ApiClient, Failed
from homing.commands.show_task import show_task
from homing.terminal import print_fields, print_json
from tracker.errors import Unreadable
from tracker.model.task import SETTLED, Status
from tracker.model.untrusted import JsonObject, JsonValue, read_object
from tracker.providers.kling_kinds import KINDS

KLING: Final = "kling"
OMNI_IMAGE: Final = "images/omni-image"
PATIENCE: Final = timedelta(minutes=15)
MODEL: Final = "model_name"
# The options with the names of Kling's fields.
FIELDS: Final = ("prompt", "n", "aspect_ratio")
# A field of the request, and its name in a body for the gateway, which --input and --body may have.
NAMED_AT_GATEWAY: Final[Mapping[str, str]] = {"external_id": "external_task_id", "callback_url": "callback_url"}
# The kinds with a list of pictures and the field of each entry, and the kinds with one picture.
IMAGE_LISTS: Final[Mapping[str, str]] = {
    OMNI_IMAGE: "image",
    "videos/multi-image2video": "image",
    "videos/multi-elements": "image",
    "videos/omni-video": "image_url",
}
ONE_IMAGE: Final = ("images/generations", "images/editing/expand", "videos/image2video", "videos/avatar/image2video")


def add(commands: Commands) -> None:
    """Declare the commands of this file."""
    submit = data_command(commands, "submit", run_submit, "Submit a task and track it.", loops=True, creates=always)
    submit.add_argument("--provider", default=KLING, help="kling or replicate (default %(default)s)")
    submit.add_argument("--kind", help=f"the kind of task (kling: default {OMNI_IMAGE}; replicate: predictions)")
    submit.add_argument(
        "--input", metavar="JSON", help="the provider's own request body: JSON, @FILE or - for standard input"
    )
    submit.add_argument("--prompt", help="what to make (only kling)")
    submit.add_argument("--model", help="the provider's model, such as kling-3.0 or owner/name")
    submit.add_argument("--n", type=count, help="how many images (only kling)")
    submit.add_argument("--aspect-ratio", help="such as 16:9 (only kling)")
    submit.add_argument(
        "--image", action="append", default=[], help="an input image: a URL or a file (only kling); repeatable"
    )
    submit.add_argument("--external-id", help="your own ID; repeating a request with the same ID and input is safe")
    submit.add_argument("--callback-url", metavar="URL", help="where Homing sends callbacks in the provider's shape")
    submit.add_argument("--body", metavar="FILE", help="the same as --input @FILE; options override its fields")
    submit.add_argument(
        "--wait", action="store_true", help="wait until it is finished; exit status 1 unless it succeeded"
    )
    submit.add_argument("--timeout", type=duration, default=PATIENCE, help="how long --wait waits (default 15m)")

    expect = data_command(
        commands,
        "expect",
        run_expect,
        "Announce a task before you submit it, and get its callback URL.",
        creates=always,
    )
    adopt = data_command(
        commands, "adopt", run_adopt, "Track a task that already runs at the provider.", creates=always
    )
    for parser in (expect, adopt):
        parser.add_argument("provider", help="such as kling")
        parser.add_argument("kind", help="the product's path, such as images/omni-image")
    adopt.add_argument("provider_task_id", metavar="PROVIDER_TASK_ID")
    for parser in (expect, adopt):
        parser.add_argument("--external-id", help="your own ID")
    for parser in (submit, expect, adopt):
        parser.add_argument("--deadline", type=duration, help="when to stop waiting, such as 2h")
        parser.add_argument("--tag", action="append", default=[], help="a tag to find the task by; repeatable")
        parser.add_argument(
            "--metadata",
            type=entry,
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="your own text about the task, such as order=17; repeatable",
        )


async def run_submit(args: Namespace, api: ApiClient) -> int:
    task = await api.post("/v1/tasks", _create_request(args))
    if args.wait:
        task = await settled(api, task, args.timeout)
    show_task(args, task)
    return 0 if not args.wait or task["status"] == Status.SUCCEEDED else 1


async def run_expect(args: Namespace, api: ApiClient) -> int:
    document = await api.post("/v1/tasks/expect", _announced(args))
    task = document["task"]
    if args.json or not isinstance(task, dict):
        print_json(document)
        return 0
    address = document["callback_url"] or "none: HOMING_PUBLIC_URL is not set, so Homing polls the provider"
    print_fields([("task", task["id"]), ("callback_url", address)])
    return 0


async def run_adopt(args: Namespace, api: ApiClient) -> int:
    body = _announced(args) | {"provider_task_id": args.provider_task_id}
    show_task(args, await api.post("/v1/tasks/adopt", body))
    return 0


async def settled(api: ApiClient, task: JsonObject, patience: timedelta) -> JsonObject:
    """Wait until the task is settled.

    Raises: Failed, after ``patience``.
    """
    try:
        async with asyncio.timeout(patience.total_seconds()):
            while task["status"] not in SETTLED:
                task = await api.changed(task)
    except TimeoutError:
        raise Failed(f"{task['id']} is still {task['status']}. `homing why {task['id']}` explains why") from None
    return task


def _announced(args: Namespace) -> JsonObject:
    body: dict[str, JsonValue] = {"provider": args.provider, "kind": args.kind, "tags": args.tag}
    body["metadata"] = dict(args.metadata)
    if args.external_id:
        body["external_id"] = args.external_id
    if args.deadline:
        body["deadline"] = args.deadline.total_seconds()
    return body


def _create_request(args: Namespace) -> JsonObject:
    """Return the body of the create request."""
    if args.kind is None:
        if args.provider != KLING:
            raise Usage(f"the kind is missing. Pass --kind KIND, a kind of task of {args.provider}")
        args.kind = OMNI_IMAGE
    _refuse_options_of_kling(args)
    body, wanted = _announced(args), _input(args)
    for name, field in NAMED_AT_GATEWAY.items():
        given = wanted.pop(field, None)
        if value := getattr(args, name) or given:
            body[name] = value
    if args.model is not None:
        if args.provider == KLING and not _has_model_in_path(args.kind):
            wanted[MODEL] = args.model
        else:
            body["model"] = args.model
    if args.image:
        wanted |= _images(args.kind, [_image(text) for text in args.image])
    if (args.provider, args.kind) == (KLING, OMNI_IMAGE) and not wanted.get("prompt"):
        raise Usage("the prompt is missing. Pass --prompt TEXT, or an --input that has a prompt")
    return body | {"input": wanted}


def _refuse_options_of_kling(args: Namespace) -> None:
    """Refuse the options that have the names of Kling's fields, for another provider."""
    given = [f"--{name.replace('_', '-')}" for name in (*FIELDS, "image") if getattr(args, name) not in (None, [])]
    if not given or args.provider == KLING:
        return
    from tracker.providers.registry import NAMES  # noqa: PLC0415 - it takes long to import

    # The server names the providers to whoever mistypes one.
    if args.provider in NAMES:
        raise Usage(f"only kling has {', '.join(given)}. Write the fields of {args.provider} into --input")


def _has_model_in_path(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].dialect == "new"


def _input(args: Namespace) -> JsonObject:
    """Return the provider's request body, with the fields of the options."""
    if args.input is not None and args.body is not None:
        raise Usage("--input and --body are the same. Pass one of them")
    wanted: JsonObject = {}
    if args.input is not None:
        wanted = _read_input("--input", args.input)
    elif args.body is not None:
        wanted = _read_input("--body", "-" if args.body == "-" else f"@{args.body}")
    return wanted | {name: value for name in FIELDS if (value := getattr(args, name)) is not None}


def _images(kind: str, images: list[str]) -> JsonObject:
    """Return the field with the pictures of a kind, as far as there is one field for them."""
    if kind in IMAGE_LISTS:
        return {"image_list": [{IMAGE_LISTS[kind]: image} for image in images]}
    if kind in ONE_IMAGE and len(images) == 1:
        return {"image": images[0]}
    if kind in ONE_IMAGE:
        raise Usage(f"{kind} takes one picture. Pass --image once")
    raise Usage(f"--image does not fit {kind}. Write the pictures into the --input")


def _read_input(option: str, given: str) -> JsonObject:
    """Read a JSON object: the text itself, a file after an @, or - for the standard input."""
    name = given[1:] if given.startswith("@") else given[:40]
    try:
        if given == "-":
            return read_object(sys.stdin.buffer.read())
        return read_object(Path(name).read_bytes() if given.startswith("@") else given.encode())
    except OSError as error:
        raise Usage(f"{option} {name} cannot be read: {error.strerror}") from None
    except (Unreadable, UnicodeEncodeError) as error:
        why = error.detail if isinstance(error, Unreadable) else "the body is not UTF-8"
        raise Usage(f"{option} {name}: {why}. Pass a JSON object, @FILE or -") from None


def _image(text: str) -> str:
    """Return a URL unchanged, or a file as Base64 without a `data:` prefix, as the provider documents it."""
    if text.startswith(("http://", "https://")):
        return text
    try:
        return base64.b64encode(Path(text).read_bytes()).decode()
    except OSError as error:
        raise Usage(f"--image {text} cannot be read: {error.strerror}. Pass a file or a URL") from None
