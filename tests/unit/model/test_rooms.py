"""Tests of room that clients share: no client gets all of it, and returned room is never lost."""

from hypothesis import given
from hypothesis import strategies as st

from tracker.errors import Overloaded
from tracker.model.rooms import Room

SIZE = 90
CLIENTS = ("a", "b", "c")


def fill(room: Room, client: str) -> int:
    """Take room for a client until it is refused. Return how much the client holds."""
    for _ in range(SIZE):
        try:
            room.take(client)
        except Overloaded:
            break
    return room.held(client)


def test_single_client_gets_two_thirds() -> None:
    assert fill(Room(SIZE, "full"), "a") == SIZE * 2 // 3


def test_new_client_always_gets_room() -> None:
    room = Room(SIZE, "full")

    held = [fill(room, client) for client in CLIENTS]

    assert held == [60, 20, 6]


def test_returned_room_is_shared_with_others() -> None:
    room = Room(SIZE, "full")
    fill(room, "a")
    fill(room, "b")

    with room.holding("c", 5):
        room.give("a", 60)
        assert fill(room, "b") == (SIZE - 5) * 2 // 3


@given(st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(1, SIZE)), max_size=50))
def test_returned_room_is_complete(wanted: list[tuple[str, int]]) -> None:
    room = Room(SIZE, "full")
    taken = []
    for client, amount in wanted:
        try:
            room.take(client, amount)
        except Overloaded:
            continue
        taken.append((client, amount))
        assert room.left >= 0

    for client, amount in taken:
        room.give(client, amount)

    assert room.left == SIZE
    assert [room.held(client) for client in CLIENTS] == [0, 0, 0]
