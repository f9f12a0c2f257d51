"""An amount that clients share: nobody gets all of it, and nothing that is given back is lost."""

from hypothesis import given
from hypothesis import strategies as st

from tracker.errors import Overloaded
from tracker.model.rooms import Room

SIZE = 90
CLIENTS = ("a", "b", "c")


def fill(room: Room, client: str) -> int:
    """Take for a client until nothing more is given; return how much it holds."""
    for _ in range(SIZE):
        try:
            room.take(client)
        except Overloaded:
            break
    return room.held(client)


def test_a_client_alone_gets_two_thirds() -> None:
    assert fill(Room(SIZE, "full"), "a") == SIZE * 2 // 3


def test_a_newcomer_always_finds_something() -> None:
    room = Room(SIZE, "full")

    held = [fill(room, client) for client in CLIENTS]

    assert held == [60, 20, 6]


def test_a_holder_that_gives_back_makes_room_for_others() -> None:
    room = Room(SIZE, "full")
    fill(room, "a")
    fill(room, "b")

    with room.holding("c", 5):
        room.give("a", 60)
        assert fill(room, "b") == (SIZE - 5) * 2 // 3


@given(st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(1, SIZE)), max_size=50))
def test_what_is_given_back_is_whole(wanted: list[tuple[str, int]]) -> None:
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
