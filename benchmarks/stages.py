"""The stages of a request without sockets: decode, batcher, score, encode, and a whole request of them.

    python benchmarks/stages.py                               every stage, about a minute
    python benchmarks/stages.py --seconds 0.05 --cases a_1    shorter, and less sure
    python benchmarks/stages.py --json stages.json            all figures in a file

Times are the least of many short bursts, since whatever else runs on the machine can only add to them. Beside each
stands the least that the same work can take.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cases
import codec
import heads
import tables
import turns
from bench import machine
from cases import Form
from codec import Coded
from rich.console import Console
from rich.table import Table
from turns import Turn, Whole

from service.wire.json_reader import HAS_SIMDJSON

CASES = ("a_1", "a_32", "a_256", "b_1", "b_32", "s_256")
FORMS: tuple[Form, ...] = ("json", "npz", "v2")
# Of these all stages run on the event loop; the server has a short way for them in these forms.
TURN_CASES = ("a_1", "a_32", "b_1")
TURN_FORMS: tuple[Form, ...] = ("json", "v2")
SUBMISSIONS = (1, 16, 64, 256)
SCORED = (1, 16, 64)
WHOLE = (1, 16)


class Stages(NamedTuple):
    """All that was measured."""

    coded: list[Coded]
    batcher: list[Turn]
    score: list[Turn]
    whole: list[Whole]


def measure(names: Sequence[str], seconds: float) -> Stages:
    in_turn = [name for name in names if name in TURN_CASES]
    single = [name for name in in_turn if cases.make(name).rows == 1]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        heads.write(models)
        coded = [codec.measure(cases.make(name), form, seconds) for name, form in product(names, FORMS)]
        return Stages(
            [one for both in coded for one in both],
            [turns.batcher(count, seconds) for count in SUBMISSIONS],
            [turns.score(name, count, models, seconds) for name, count in product(single, SCORED)],
            turns.whole(in_turn, TURN_FORMS, WHOLE, models, seconds),
        )


def coded_table(direction: str, coded: Sequence[Coded]) -> Table:
    table = right(direction, ("case", "form"), ("bytes", "µs", "floor, µs", "over the floor", "ns a number"))
    for one in coded:
        if one.direction == direction:
            times = us(one.seconds), us(one.floor_s), f"{one.seconds / one.floor_s:.2f}"
            table.add_row(
                one.case, one.form, str(one.num_bytes), *times, f"{1e9 * one.seconds / one.numbers:.1f}"
            )
    return table


def turn_table(title: str, bare: str, found: Sequence[Turn]) -> Table:
    table = right(title, ("what",), ("requests in one turn", "µs each", bare, "beside it, µs"))
    for one in found:
        table.add_row(
            one.what, str(one.requests), us(one.seconds), us(one.bare_s), us(one.seconds - one.bare_s)
        )
    return table


def whole_table(found: Sequence[Whole]) -> Table:
    columns = ("requests in one turn", "µs each", "decode", "queue + infer", "encode", "rest")
    table = right("a whole request, from the server's hands and back", ("case", "form"), columns)
    for one in found:
        parts = one.seconds, one.decode_s, one.run_s, one.encode_s, one.rest_s
        table.add_row(one.case, one.form, str(one.requests), *map(us, parts))
    return table


def right(title: str, texts: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(*texts, title=title)
    for heading in figures:
        table.add_column(heading, justify="right")
    return table


def us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"


def print_stages(console: Console, found: Stages) -> None:
    console.print(f"simdjson is {'used' if HAS_SIMDJSON else 'not installed'}")
    console.print(coded_table("decode", found.coded))
    console.print(turn_table("the batcher, rows of one", "the bare function, µs", found.batcher))
    console.print(turn_table("score, rows of one", "one session run for all, µs", found.score))
    console.print(coded_table("encode", found.coded))
    console.print(whole_table(found.whole))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="spent on each figure")
    parser.add_argument(
        "--cases", default=",".join(CASES), help=f"comma-separated, default {','.join(CASES)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console(width=max(Console().width, 110))
    try:
        found = measure(options.cases.split(","), options.seconds)
    except (cases.WrongAnswer, ValueError) as error:
        console.print(str(error), markup=False)
        return 1
    print_stages(console, found)
    if options.json:
        said = {"machine": machine(), **tables.plain(found)}
        options.json.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
