"""The delay until waiting clients see a change, the cost of idle waiting clients, and the cost of a sink."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Final

from bench import deliveries, listen, servers, subjects
from bench.databases import Databases
from bench.results import Broken, Row
from bench.rounds import Effort, Turn, in_turns, say

PER_SECOND: Final = 500.0
SECONDS: Final = 6.0
WAITERS: Final = 1_000
IDLE_SECONDS: Final = 20.0
CONNECTIONS: Final = 64
# A round is thousands of observed callbacks, so a few rounds are enough.
ROUNDS: Final = 3
# A function in the same process that accepts every event and does nothing.
SINK: Final = "python:bench.nothing:take"


def latency(every: Sequence[Databases], folder: Path, effort: Effort) -> Iterator[Row]:
    """Measure the delay from the answer to a callback until other clients see the change."""
    count = int(PER_SECOND * SECONDS)
    rounds = min(effort.rounds, ROUNDS)
    tasks = deliveries.tasks_for(count * (rounds + 1))
    for databases in every:
        measured = []
        with subjects.homing(databases, folder, name="listen", tasks=tasks) as subject:
            for number in range(rounds + 1):
                plan = listen.Plan(
                    port=subject.server.port,
                    key=servers.API_KEY,
                    first=subject.place,
                    count=count,
                    per_second=PER_SECOND,
                )
                outcome = listen.run(plan)
                subject.place += count
                if outcome.missed:
                    raise Broken(f"{databases.name}: {outcome.missed} of {count} changes were never seen")
                if number:  # the first warms up
                    measured.append(outcome)
                    say(
                        f"{databases.name}: stream p99 {outcome.stream_p99_ms:.1f} ms, "
                        f"poll p99 {outcome.poll_p99_ms:.1f} ms"
                    )
        what = f"{databases.name}, {PER_SECOND:.0f} callbacks/s"
        yield Row(
            key=f"stream_p99_ms_{databases.name}",
            what=f"p99 from answer to event stream, {what}",
            rounds=[one.stream_p99_ms for one in measured],
            unit="ms",
            must=50,
            note=f"p50 {measured[0].stream_p50_ms:.1f} ms",
        )
        yield Row(
            key=f"wait_p99_ms_{databases.name}",
            what=f"p99 from answer to long-poller, {what}",
            rounds=[one.poll_p99_ms for one in measured],
            unit="ms",
            must=50,
            note=f"p50 {measured[0].poll_p50_ms:.1f} ms",
        )


def cost(databases: Databases, folder: Path, effort: Effort) -> Iterator[Row]:
    """Measure by which share one sink in the same process reduces the rate of acknowledgements."""
    tasks = deliveries.tasks_for(effort.callbacks(subjects.HOMING_MAX_RATE))
    with ExitStack() as stack:
        both = [
            stack.enter_context(subjects.homing(databases, folder, name=name, tasks=tasks, **settings))
            for name, settings in (("plain", {}), ("sink", {"sinks": SINK}))
        ]
        plain, with_sink = in_turns([Turn(subject=one, connections=CONNECTIONS) for one in both], effort)
    yield Row(
        key=f"sink_cost_{databases.name}",
        what=f"share of the ack rate that one sink takes, {databases.name}",
        rounds=[1 - one.per_second / other.per_second for one, other in zip(with_sink, plain, strict=True)],
        must=0.25,
    )


def idle(databases: Databases, folder: Path) -> Iterator[Row]:
    """Measure the processor time and the memory for thousands of idle waiting clients."""
    with subjects.homing(databases, folder, name="idle", tasks=deliveries.BLOCK) as subject:
        share, memory = asyncio.run(_idle(subject.server))
    yield Row(
        key="idle_core_share",
        what=f"share of a core, {WAITERS:,} long-pollers and {WAITERS:,} subscribers, nothing happening",
        rounds=[share],
        must=0.05,
        note=f"{memory:.0f} MiB more than without them",
    )


async def _idle(server: servers.Server) -> tuple[float, float]:
    before = server.memory().now
    writers = []
    for number in range(WAITERS):
        task = deliveries.task_id(number % deliveries.BLOCK)
        for target in (f"/v1/tasks/{task}?wait=55", "/v1/events"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            accept = "text/event-stream" if target == "/v1/events" else "application/json"
            fields = f"host: 127.0.0.1\r\nauthorization: Bearer {servers.API_KEY}\r\naccept: {accept}"
            writer.write(f"GET {target} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            writers.append(writer)
            if target == "/v1/events" and b" 200 " not in await reader.readline():
                raise Broken("the event stream is refused")
    busy, began = _cpu(server.pid), perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    share = (_cpu(server.pid) - busy) / (perf_counter() - began)
    memory = server.memory().now - before
    for writer in writers:
        writer.close()
    return share, memory


def _cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has used. Linux only."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.is_file():
        raise Broken("processor time is read from /proc, which this system does not have")
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
