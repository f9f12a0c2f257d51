"""The API key of the tests that are not about keys: its client is ``local`` and sees every client's tasks."""

from tracker.api import Access
from tracker.model.keys import NamedKey

LOCAL_KEY = NamedKey(name="local", key="made-up-local-key-of-the-tests", sees_all=True)
LOCAL_ACCESS = Access(api_keys=(LOCAL_KEY,))
# As HOMING_API_KEYS has it.
LOCAL_SETTING = f"local*:{LOCAL_KEY.key}"
# As a line of a request.
LOCAL_LINE = f"Authorization: Bearer {LOCAL_KEY.key}"
LOCAL_HEADERS = {"authorization": f"Bearer {LOCAL_KEY.key}"}
