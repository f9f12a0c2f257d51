"""The products of the fake provider: how a client writes a request of each, and how the provider shows a task.

One history uses one product. They differ in what Homing must not confuse: the place of the external ID, the query, the
words, and whether a task can be found by its external ID.
"""

from dataclasses import dataclass
from typing import Any, Final

PICTURE: Final = "https://client.example/cat.png"
SUCCEEDED: Final = "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product. ``path`` is that of a create request. ``is_new`` products have the newer dialect."""

    kind: str
    path: str
    is_new: bool = False
    looks_up: bool = True

    def request(self, prompt: str, external_id: str | None, callback_url: str | None) -> dict[str, Any]:
        """Return the body of a create request."""
        ids = {
            name: value
            for name, value in (("external_task_id", external_id), ("callback_url", callback_url))
            if value is not None
        }
        if self.is_new:
            return {"prompt": prompt, "settings": {"duration": 5}} | ({"options": ids} if ids else {})
        # Unknown fields pass, so a product without a prompt can have one.
        return {"prompt": prompt, "model_name": "kling-v3-omni", "element_frontal_image": PICTURE} | ids

    def ids_in(self, body: dict[str, Any]) -> tuple[str | None, str | None]:
        """Return the external ID and the callback URL of a create request. The provider ignores them elsewhere."""
        place = body.get("options", {}) if self.is_new else body
        return place.get("external_task_id"), place.get("callback_url")

    def task_id(self, data: dict[str, Any]) -> str:
        """Return the ID in the reply to a create request."""
        return str(data["id" if self.is_new else "task_id"])


OMNI_IMAGE: Final = Product(kind="images/omni-image", path="/v1/images/omni-image")
PRODUCTS: Final = (
    OMNI_IMAGE,
    OMNI_IMAGE,
    Product(kind="general/ai-multi-shot", path="/v1/general/ai-multi-shot", looks_up=False),
    Product(kind="text-to-video", path="/text-to-video/kling-3.0", is_new=True),
)
