"""The objects that a document names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.model.provider_objects import ID_FIELDS, ObjectRef, ObjectType, objects_in, only_own
from tracker.model.untrusted import JsonValue

NAMES = ("voice_id", "voiceId", "VOICEID", "element_id", "elementId", "other")
LEAVES = st.none() | st.integers(0, 9) | st.sampled_from(["1", " 2 ", "a"])
DOCUMENTS: st.SearchStrategy[JsonValue] = st.recursive(
    LEAVES, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(NAMES), below, max_size=3)
)
VOICE = ObjectRef(ObjectType.VOICE, "7")


def test_objects_are_found_at_any_depth_and_spelling() -> None:
    document: JsonValue = {"voice_id": 7, "a": [{"voiceId": " 8 ", "b": {"VOICE_ID": "9"}}], "element_id": "1"}

    found = objects_in(document, ObjectType.VOICE)

    assert [one.id for one in found] == ["7", "8", "9"]


@given(DOCUMENTS, st.sampled_from(ObjectType))
def test_wrapped_document_names_the_same_objects(document: JsonValue, type_: ObjectType) -> None:
    wrapped: JsonValue = {"data": [document, {ID_FIELDS[type_]: "new"}]}

    assert set(objects_in(wrapped, type_)) == {*objects_in(document, type_), ObjectRef(type_, "new")}


@given(st.lists(DOCUMENTS, max_size=4), st.sets(st.sampled_from(["1", "2", "3"])))
def test_own_list_names_only_owned_objects(entries: list[JsonValue], ids: set[str]) -> None:
    owned = {ObjectRef(ObjectType.VOICE, its_id) for its_id in ids}

    kept = only_own({"code": 0, "data": entries}, ObjectType.VOICE, owned)

    assert kept is not None
    assert set(objects_in(kept, ObjectType.VOICE)) <= owned
    assert kept["code"] == 0


@pytest.mark.parametrize("data", [{"voice_id": "7"}, "7", {}])
def test_reply_without_a_list_is_told_apart_from_an_empty_list(data: JsonValue) -> None:
    assert only_own({"data": data}, ObjectType.VOICE, {VOICE}) is None
    assert only_own({"data": []}, ObjectType.VOICE, {VOICE}) == {"data": []}
    assert only_own({"data": None}, ObjectType.VOICE, {VOICE}) == {"data": []}
    assert only_own({"code": 0}, ObjectType.VOICE, {VOICE}) == {"code": 0, "data": []}
