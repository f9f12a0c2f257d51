"""The pages for users: their links lead somewhere, their settings exist, and every alarm and error has a section."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracker import errors
from tracker.api.http.access import WrongHost
from tracker.model.task import Alarm
from tracker.settings import strays

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
# They group other errors, are raised by programs and commands only, or become another error on their way out.
NO_ANSWERS = {
    errors.HomingError,
    errors.CallerError,
    errors.OurError,
    errors.NotAuthenticated,
    errors.Refused,
    errors.SettingsError,
    errors.NotSent,
    errors.ReplyLost,
}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return what the links of a page lead to within the repository."""
    text = FENCE.sub("", page.read_text())
    return [to for to in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in to]


def broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def kinds(base: type[errors.HomingError]) -> Iterator[type[errors.HomingError]]:
    """Yield an error and all that derive from it."""
    yield base
    for derived in base.__subclasses__():
        yield from kinds(derived)


def sections(word: str) -> set[str]:
    """Return the names in the headings of the troubleshooting page that begin with a word."""
    found = re.findall(rf"^### {word}: (.+)$", TROUBLE, re.MULTILINE)
    return {name for heading in found for name in heading.split(", ")}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    assert list(broken(ROOT / name)) == []


def test_broken_links_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title: it's one\n[a](#a-title-its-one) [b](#b) [c](gone.md) [d](https://example.com/d)\n")

    assert list(broken(page)) == ["#b", "gone.md"]


def test_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in links(index)}

    assert [page.name for page in (ROOT / "docs").rglob("*.md") if page not in {index, *linked}] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_page_in_docs_that_a_text_names_exists(name: str) -> None:
    named = re.findall(r"`(docs/[\w./-]+\.md)`", (ROOT / name).read_text())

    assert [page for page in named if not (ROOT / page).exists()] == []


def test_every_page_that_the_code_names_exists() -> None:
    sources = [file for package in ("homing", "receiver", "tracker") for file in (ROOT / package).rglob("*.py")]
    named = {page for file in sources for page in re.findall(r"docs/[\w./-]+\.md", file.read_text())}

    assert len(named) > 3
    assert sorted(page for page in named if not (ROOT / page).exists()) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_every_setting_that_a_page_names_exists(name: str) -> None:
    named = dict.fromkeys(re.findall(r"HOMING_[A-Z_]+[A-Z]", (ROOT / name).read_text()), "set")

    assert strays(environ=named, env_file=None) == []


def test_every_alarm_has_a_section() -> None:
    assert sections("Alarm") == set(Alarm)


def test_every_error_that_clients_see_has_a_section() -> None:
    here = (errors.__name__, "tracker.api.")
    known = (kind for kind in kinds(errors.HomingError) if kind.__module__.startswith(here))
    names = {kind.__name__ for kind in known if kind not in NO_ANSWERS}
    answered = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower() for name in names}

    assert WrongHost.__name__ in names
    assert sections("Error") == {*answered, "homing-error"}


def test_reference_and_troubleshooting_name_the_same_errors() -> None:
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    rows = re.findall(r"^\| [45]\d\d \| ([^|]+) \|", reference, re.MULTILINE)

    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == sections("Error")
