"""`homing openapi | asyncapi`: the documents that describe the API and the events."""

from argparse import Namespace

from homing.terminal import print_json
from tracker.api.app import endpoints
from tracker.api.asyncapi import describe_events
from tracker.api.http.openapi import describe


def openapi(_: Namespace) -> int:
    """Print the OpenAPI document."""
    print_json(describe(endpoints()))
    return 0


def asyncapi(_: Namespace) -> int:
    """Print the AsyncAPI document."""
    print_json(describe_events())
    return 0
