"""The user pages: links resolve, settings exist, and every alarm and error has a section."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracker import errors
from tracker.api.http.access import WrongHost
from tracker.model.task import Alarm
from tracker.settings import check_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
# These errors are base classes, occur only in programs and commands, or are converted before the client sees them.
NO_ANSWERS = {
    errors.HomingError,
    errors.ClientError,
    errors.ServiceError,
    errors.NotAuthenticated,
    errors.SettingsError,
    errors.NotSent,
    errors.ReplyLost,
}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, in GitHub's format."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return the link targets of a page within the repository."""
    text = FENCE.sub("", page.read_text())
    return [to for to in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in to]


def broken(page: Path) -> Iterator[str]:
    """Yield the broken links of a page."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def kinds(base: type[errors.HomingError]) -> Iterator[type[errors.HomingError]]:
    """Yield an error class and all its subclasses."""
    yield base
    for derived in base.__subclasses__():
        yield from kinds(derived)


def sections(prefix: str) -> set[str]:
    """Return the names in the troubleshooting headings that start with `prefix`."""
    found = re.findall(rf"^### {prefix}: (.+)$", TROUBLE, re.MULTILINE)
    return {name for heading in found for name in heading.split(", ")}


@pytest.mark.parametrize("name", NAMES)
def test_every_page_link_resolves(name: str) -> None:
    assert list(broken(ROOT / name)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title: it's one\n[a](#a-title-its-one) [b](#b) [c](gone.md) [d](https://example.com/d)\n")

    assert list(broken(page)) == ["#b", "gone.md"]


def test_index_links_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in links(index)}

    assert [page.name for page in (ROOT / "docs").rglob("*.md") if page not in {index, *linked}] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_docs_page_named_in_text_exists(name: str) -> None:
    named = re.findall(r"`(docs/[\w./-]+\.md)`", (ROOT / name).read_text())

    assert [page for page in named if not (ROOT / page).exists()] == []


def test_every_page_named_in_code_exists() -> None:
    sources = [file for package in ("homing", "receiver", "tracker") for file in (ROOT / package).rglob("*.py")]
    named = {page for file in sources for page in re.findall(r"docs/[\w./-]+\.md", file.read_text())}

    assert len(named) > 3
    assert sorted(page for page in named if not (ROOT / page).exists()) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_every_setting_named_in_docs_exists(name: str) -> None:
    named = dict.fromkeys(re.findall(r"HOMING_[A-Z_]+[A-Z]", (ROOT / name).read_text()), "set")

    assert check_settings(environ=named, env_file=None).unknown == ()


def test_every_alarm_has_a_section() -> None:
    assert sections("Alarm") == set(Alarm)


def test_every_client_error_has_a_section() -> None:
    here = (errors.__name__, "tracker.api.")
    known = (kind for kind in kinds(errors.HomingError) if kind.__module__.startswith(here))
    names = {kind.__name__ for kind in known if kind not in NO_ANSWERS}
    answered = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() for name in names}

    assert WrongHost.__name__ in names
    assert sections("Error") == {*answered, "homing-error"}


def test_reference_and_troubleshooting_errors_match() -> None:
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    rows = re.findall(r"^\| [45]\d\d \| ([^|]+) \|", reference, re.MULTILINE)

    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == sections("Error")
