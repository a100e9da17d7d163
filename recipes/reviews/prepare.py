"""Rated review snippets, tweets and editorial sentences as JSON Lines.

The data is what Hutto and Gilbert published with VADER (ICWSM 2014): for each snippet the mean of
at least twenty people's ratings, from -4 (extremely negative) to 4. It is taken from the pinned
source package vaderSentiment (MIT licence), and nothing of it is kept in this repository.

Three files are written. Documents are divided by a hash of their number, so all snippets of a
review are in one file. The training file holds every snippet, as a user has them: the teacher
labels them, and people's ratings, where they are clear, serve a baseline that learns from gold and
nothing else. Validation and test hold clearly rated snippets alone.

    python recipes/reviews/prepare.py
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from stillhouse.exchanges import InputError, write_atomic
from stillhouse.teachers.packages import fetch

REQUIREMENT = "vaderSentiment==3.3.1"
SHA256 = "6ea3b53f1835a1bb9125cbb9872e8740bd506ab1d9f2266d0c63109b858d71af"
LICENCE = "MIT"
INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {  # source -> (file, lines that it holds)
    "amazon": ("amazonReviewSnippets_GroundTruth.txt", 3708),
    "movies": ("movieReviewSnippets_GroundTruth.txt", 10605),
    "tweets": ("tweets_GroundTruth.txt", 4200),
    "editorials": ("nytEditorialSnippets_GroundTruth.txt", 5190),
}
VALIDATION, TEST = 0.02, 0.08  # shares of the documents
HERE = Path(__file__).parent

Row = dict[str, Any]


def parse_snippets(text: str, source: str) -> Iterator[Row]:
    """Rows of one file, of lines `id<TAB>mean rating<TAB>text`.

    Snippets of one review or article have ids such as 12_3, and its number is their `document`; a
    snippet without one is a document of its own. `rating` stays a number, from -4 to 4.
    """
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split("\t", 2)
        if len(parts) != 3 or not parts[2].strip():
            raise InputError(f"line {number} is not id, rating, text: {line[:80]!r}", place=source)
        name, rating, snippet = parts
        yield {
            "id": f"{source}-{name}",
            "document": f"{source}-{name.partition('_')[0]}",
            "text": snippet.strip(),
            "rating": float(rating),
            "source": source,
        }


def read_sdist(sdist: Path, sources: Iterable[str] = tuple(FILES)) -> list[Row]:
    """All rows of `sources` out of the source package, in the order of its files."""
    rows: list[Row] = []
    with tarfile.open(sdist) as outer:
        inner = io.BytesIO(_member(outer, INNER))
    with tarfile.open(fileobj=inner) as archive:
        for source in sources:
            name, lines = FILES[source]
            found = list(parse_snippets(_member(archive, name).decode("utf-8"), source))
            if len(found) != lines:
                raise InputError(
                    f"{name} holds {len(found)} snippets, not {lines}", place=str(sdist)
                )
            rows += found
    return rows


def label(rows: Iterable[Row], beyond: float) -> Iterator[Row]:
    """Rows with the sign of their rating as `sentiment` where it is beyond `beyond` either way.

    What lies between gets none: people do not agree on its sign.
    """
    for row in rows:
        sentiment = "Positive" if row["rating"] > 0 else "Negative"
        yield {**row, "sentiment": sentiment} if abs(row["rating"]) > beyond else row


def divide(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by file; a document is in one of them, and stays there whatever else is added."""
    divided: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        place = int(hashlib.sha256(row["document"].encode()).hexdigest()[:8], 16) / 2**32
        name = "test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"
        divided[name].append(row)
    return divided


def prepare(out: Path, sources: Iterable[str], beyond: float, cache: Path | None = None) -> Path:
    """Fetch the package and write `train.jsonl`, `validation.jsonl` and `test.jsonl` into `out`."""
    divided = divide(read_sdist(fetch(REQUIREMENT, SHA256, cache, progress=print), sources))
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in divided.items():
        labelled = label(rows, beyond)
        kept = labelled if name == "train" else (row for row in labelled if "sentiment" in row)
        write_atomic(out / f"{name}.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in kept))
    return out


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            file = archive.extractfile(member)
            if file is not None:
                return file.read()
    raise InputError(f"the archive holds no {ending}")


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "data", help="folder to write to")
    parser.add_argument("--sources", nargs="+", choices=tuple(FILES), default=list(FILES))
    parser.add_argument("--beyond", type=float, default=0.5, help="least distance from neutral")
    given = parser.parse_args()
    out = prepare(given.out, given.sources, given.beyond)
    counts = {path.stem: path.read_bytes().count(b"\n") for path in sorted(out.glob("*.jsonl"))}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(f"{out}: {told} snippets of {REQUIREMENT} ({LICENCE}), SHA-256 as pinned")


if __name__ == "__main__":
    main()
