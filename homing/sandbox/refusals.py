"""The refusals of the API: one exception, and the documented table of codes.

Table: "Error codes" of the official documentation (identical in its Chinese and English editions).
Others recorded the texts marked "live" against the production API. The other texts paraphrase the table.
"""

from collections.abc import Mapping

HTTP_STATUS: Mapping[int, int] = {
    1000: 401,
    1001: 401,
    1002: 401,
    1003: 401,
    1004: 401,
    1100: 429,
    1101: 429,
    1102: 429,
    1103: 403,
    1200: 400,
    1201: 400,
    1202: 404,
    1203: 404,
    1300: 400,
    1301: 400,
    1302: 429,
    1303: 429,
    1304: 429,
    5000: 500,
    5001: 503,
    5002: 504,
}

NO_AUTHORIZATION = "Authorization is empty"
BAD_AUTHORIZATION = "Authorization is invalid"
NO_ACCESS_KEYS_HERE = "The current API does not support AK/SK"  # live, on /tasks
NOT_A_TOKEN = "The token was expected to have 3 parts, but got {parts}"  # noqa: S105 - live, on legacy paths
SLOTS_TAKEN = "parallel task over resource pack limit"  # documented with its body, which has no `data`
TASK_NOT_FOUND = "Task not found by id/external id: {id}"  # live; 400/1201 and not 404/1203
EXTERNAL_ID_TAKEN = "External_task_id {id} already exists"  # live; 400/1201
TOO_MANY_IDS = "{name} cannot exceed 20 in total"  # live: 21 ids are 400/1201
UNAVAILABLE = "service temporarily unavailable"
NO_SUCH_RESOURCE = "the requested resource does not exist"


class Refusal(Exception):
    """An answer with a code other than 0. It has no `data`, and the documented HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = HTTP_STATUS[code]
