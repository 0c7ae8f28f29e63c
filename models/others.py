"""Exports heads that others have trained and packed: real ones of every kind, too large to be kept here.

    python models/others.py --out DIR              all of them
    python models/others.py --out DIR languages    one

Their packages are those of requirements/real-heads.lock; nothing of theirs runs, their files are only read. Each head
keeps the licence of its package, which is laid beside it.
"""

import argparse
import json
import lzma
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.export import formats
from service.export.exporter import Exported, export
from service.export.source import Options, Source

# torchcrepe's bins: the first in cents above 10 Hz, and how far they lie apart.
FIRST_BIN_CENTS, BIN_CENTS, PITCH_BINS = 1997.3794084376191, 20, 360


class Found(NamedTuple):
    source: Source
    class_names: tuple[str, ...]


class Other(NamedTuple):
    """A head, the package that it is in, and how it is read: with a folder to unpack to."""

    package: str
    read: Callable[[Path], Found]


def packed(package: str, name: str) -> Path:
    """The one file of a package with this end of its path."""
    (found,) = [file for file in distribution(package).files or () if str(file).endswith(name)]
    return Path(str(found.locate()))


def languages(scratch: Path) -> Found:
    """142 languages by 100,053 sparse features, in float16; some languages have a column for each of two scripts."""
    path = scratch / "model.npz"
    with lzma.open(packed("py3langid", "model.npz.xz")) as packed_file, path.open("wb") as file:
        shutil.copyfileobj(packed_file, file)
    with np.load(path) as arrays:
        codes = arrays["classes"].tolist()
    source = formats.read(path, Options(weight="ptc", bias="pc"))
    return Found(source, tuple(_distinct(codes)))


def files(_: Path) -> Found:
    """214 kinds of files by the first and last 1024 bytes of each: a deep network."""
    model = packed("magika", "model.onnx")
    names = json.loads((model.parent / "config.min.json").read_bytes())["target_labels_space"]
    return Found(formats.read(model, Options()), tuple(names))


def pitches(_: Path) -> Found:
    """360 pitches by what enters the last layer of CREPE; each has a sigmoid of its own."""
    source = formats.read(packed("torchcrepe", "tiny.pth"), Options(as_scores=True))
    cents = FIRST_BIN_CENTS + BIN_CENTS * np.arange(PITCH_BINS)
    return Found(source, tuple(f"{hertz:.2f} Hz" for hertz in 10 * 2 ** (cents / 1200)))


def words(_: Path) -> Found:
    """Where a word of Thai begins, by what enters the last layer."""
    path = packed("deepcut", "cnn_without_ne_ab.h5")
    return Found(formats.read(path, Options(layer="dense_14")), ("inside", "beginning"))


OTHERS = {
    "languages": Other("py3langid", languages),
    "files": Other("magika", files),
    "pitches": Other("torchcrepe", pitches),
    "words": Other("deepcut", words),
}


def build(name: str, out: Path) -> Exported:
    """Export one of them as the first version of a model, with the licence of its package."""
    other = OTHERS[name]
    with tempfile.TemporaryDirectory() as scratch:
        found = other.read(Path(scratch))
        exported = export(found.source, out, model=name, version=1, class_names=found.class_names, force=True)
    about = distribution(other.package)
    licences = [Path(str(file.locate())) for file in about.files or () if file.name == "LICENSE"]
    said = licences[0].read_text(encoding="utf-8") if licences else about.metadata["License"]
    text = f"{other.package} {about.version}, from which this head was exported, is under this licence:\n\n{said}\n"
    (out / name / "LICENSE").write_text(text, encoding="utf-8")
    return exported


def _distinct(names: list[str]) -> list[str]:
    """Number what is there more than once: sr, sr-2."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return distinct


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Export heads that others have trained and packed.")
    parser.add_argument("--out", type=Path, required=True, help="the folder of models to write to")
    parser.add_argument("names", nargs="*", choices=[*OTHERS, []], help="which, default all")
    options = parser.parse_args(arguments)
    for name in options.names or OTHERS:
        exported = build(name, options.out)
        info, parity = exported.head.info, exported.parity
        compared = ", ".join(
            f"{what} {value:.2g}" for what, value, _ in parity.differences if value is not None
        )
        print(
            f"{name}: {info.num_features} features, {info.num_classes} classes from {OTHERS[name].package}; "
            f"largest difference on {parity.rows} rows: {compared}; {parity.classes} other classes",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
