"""The command `homing sandbox`: serve a stand-in for Kling and Replicate until it is interrupted."""

import argparse
import sys
from collections.abc import Iterable
from ipaddress import ip_address

from homing.sandbox.faults import FAULTS
from homing.sandbox.settings import SandboxSettings, SandboxSettingsError

_BAD_INPUT = 2
_MAX_PORT = 65_535


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sandbox` and its arguments. `run` of the parsed namespace takes the namespace and returns an exit status."""
    parser = subparsers.add_parser(
        "sandbox",
        help="Run a stand-in for Kling and Replicate. --fault NAME=RATE adds faults.",
        description="Run a stand-in for Kling and Replicate. --fault NAME=RATE adds faults, such as callback_lost=0.2.",
        epilog="faults: " + "; ".join(f"{name}: {what}" for name, what in FAULTS.items()),
    )
    parser.set_defaults(run=run)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default %(default)s)")
    parser.add_argument("--port", default="8090", help="the port to listen on, 0 for a free one (default %(default)s)")
    parser.add_argument("--seed", default="1", help="the seed of all random choices (default %(default)s)")
    parser.add_argument("--api-key", action="append", metavar="KEY", help="an accepted API key; repeatable")
    parser.add_argument("--access-key", action="append", metavar="ACCESS:SECRET", help="an AK/SK pair; repeatable")
    parser.add_argument(
        "--webhook-secret", action="append", metavar="whsec_BASE64", help="sign callbacks; twice for a rotation"
    )
    parser.add_argument(
        "--fault", action="append", metavar="NAME=RATE", help="a fault and its probability from 0 to 1; repeatable"
    )
    parser.add_argument("--callback-shape", default="legacy", help="legacy, new or enveloped (default %(default)s)")
    parser.add_argument("--no-callbacks", action="store_true", help="send no callbacks")
    parser.add_argument("--final-only", action="store_true", help="send callbacks only for final statuses")
    parser.add_argument(
        "--run-time", default="24", help="the median run time of a task in seconds (default %(default)s)"
    )
    parser.add_argument(
        "--run-time-sigma", default="0.3", help="the sigma of the lognormal run times (default %(default)s)"
    )
    parser.add_argument("--failure-rate", default="0", help="the probability that a task fails (default %(default)s)")
    parser.add_argument("--slots", help="the concurrency slots of the account (default: no limit)")
    parser.add_argument("--reseller", action="store_true", help="behave like a reseller: no external IDs, no /tasks")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted. Return 0, or 2 with one line on stderr for invalid settings."""
    # Importing the web server here keeps `--help` fast.
    from homing.sandbox.server import Sandbox, SandboxServer, base_url, listen  # noqa: PLC0415 - see above

    try:
        settings = _settings(args)
        listening = listen(args.host, _port(args.port))
    except SandboxSettingsError as error:
        sys.stderr.write(f"homing sandbox: {error}\n")
        return _BAD_INPUT
    except (OSError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "there is no such address"
        sys.stderr.write(
            f"homing sandbox: cannot listen on {args.host} port {args.port} ({reason}). Set another --port or --host\n"
        )
        return _BAD_INPUT
    with listening:
        if not ip_address(listening.getsockname()[0]).is_loopback:
            sys.stderr.write(
                f"homing sandbox: --host {args.host} makes the sandbox reachable from other machines. "
                "The control paths under /sandbox need no key. Use this host only in a network that you trust.\n"
            )
        sys.stdout.write("\n".join(_announcement(base_url(listening), settings)) + "\n")
        sys.stdout.flush()
        try:
            SandboxServer(Sandbox(settings)).run(sockets=[listening])
        except KeyboardInterrupt:
            return 0
    return 0


def _announcement(url: str, settings: SandboxSettings) -> list[str]:
    """Return the sandbox's URL, and lines for `.env` that make Homing use it."""
    pointers = {"HOMING_KLING_BASE_URL": url}
    if settings.api_keys:
        pointers["HOMING_KLING_API_KEY"] = settings.api_keys[0]
    else:
        access, secret = next(iter(settings.access_keys.items()))
        pointers |= {"HOMING_KLING_ACCESS_KEY": access, "HOMING_KLING_SECRET_KEY": secret}
    if settings.api_keys:
        pointers |= {
            "HOMING_REPLICATE_BASE_URL": f"{url}/replicate",
            "HOMING_REPLICATE_API_KEY": settings.api_keys[0],
        }
    if settings.webhook_secrets:
        secrets = ",".join(settings.webhook_secrets)
        pointers |= {"HOMING_KLING_WEBHOOK_SECRETS": secrets, "HOMING_REPLICATE_WEBHOOK_SECRETS": secrets}
    head = f"# Sandbox of Kling and Replicate on {url} (seed {settings.seed}). Copy these lines into Homing's .env:"
    callbacks = "# To receive callbacks on this machine, add: HOMING_PUBLIC_URL=http://127.0.0.1:8000"
    tail = [callbacks] if settings.callbacks else []
    return [head, *(f"{name}={value}" for name, value in pointers.items()), *tail]


def _settings(args: argparse.Namespace) -> SandboxSettings:
    defaults = SandboxSettings()
    access_keys = dict(_pairs("--access-key", args.access_key, ":"))
    return SandboxSettings(
        seed=int(_number("--seed", args.seed, whole=True)),
        api_keys=tuple(args.api_key or (() if access_keys else defaults.api_keys)),
        access_keys=access_keys,
        webhook_secrets=tuple(args.webhook_secret or ()),
        callback_shape=args.callback_shape,
        callbacks=not args.no_callbacks,
        intermediate=not args.final_only,
        faults={name: _number(f"--fault {name}", rate) for name, rate in _pairs("--fault", args.fault, "=")},
        run_time=_number("--run-time", args.run_time),
        run_time_sigma=_number("--run-time-sigma", args.run_time_sigma),
        failure_rate=_number("--failure-rate", args.failure_rate),
        slots=None if args.slots is None else int(_number("--slots", args.slots, whole=True)),
        reseller=args.reseller,
    )


def _port(text: str) -> int:
    port = int(_number("--port", text, whole=True))
    if not 0 <= port <= _MAX_PORT:
        raise SandboxSettingsError(f"--port must be from 0 to {_MAX_PORT}")
    return port


def _pairs(option: str, texts: Iterable[str] | None, separator: str) -> list[tuple[str, str]]:
    pairs = []
    for text in texts or ():
        name, found, value = text.partition(separator)
        if not (name and found and value):
            raise SandboxSettingsError(f"{option} is not valid. Write it as NAME{separator}VALUE")
        pairs.append((name, value))
    return pairs


def _number(option: str, text: str, *, whole: bool = False) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        raise SandboxSettingsError(f"{option} must be {'an integer' if whole else 'a number'}") from error
