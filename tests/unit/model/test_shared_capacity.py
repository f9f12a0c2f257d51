"""Tests of capacity that clients share: no client gets all of it, and released capacity is never lost."""

from hypothesis import given
from hypothesis import strategies as st

from tracker.errors import Overloaded
from tracker.model.shared_capacity import SharedCapacity

SIZE = 90
CLIENTS = ("a", "b", "c")


def fill(capacity: SharedCapacity, client: str) -> int:
    """Take capacity for a client until it is refused. Return how much the client holds."""
    for _ in range(SIZE):
        try:
            capacity.take(client)
        except Overloaded:
            break
    return capacity.held(client)


def test_single_client_gets_two_thirds() -> None:
    assert fill(SharedCapacity(SIZE, "full"), "a") == SIZE * 2 // 3


def test_new_client_always_gets_capacity() -> None:
    capacity = SharedCapacity(SIZE, "full")

    held = [fill(capacity, client) for client in CLIENTS]

    assert held == [60, 20, 6]


def test_returned_room_is_shared_with_others() -> None:
    capacity = SharedCapacity(SIZE, "full")
    fill(capacity, "a")
    fill(capacity, "b")

    with capacity.holding("c", 5):
        capacity.give("a", 60)
        assert fill(capacity, "b") == (SIZE - 5) * 2 // 3


@given(st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(1, SIZE)), max_size=50))
def test_returned_room_is_complete(wanted: list[tuple[str, int]]) -> None:
    capacity = SharedCapacity(SIZE, "full")
    taken = []
    for client, amount in wanted:
        try:
            capacity.take(client, amount)
        except Overloaded:
            continue
        taken.append((client, amount))
        assert capacity.left >= 0

    for client, amount in taken:
        capacity.give(client, amount)

    assert capacity.left == SIZE
    assert [capacity.held(client) for client in CLIENTS] == [0, 0, 0]
