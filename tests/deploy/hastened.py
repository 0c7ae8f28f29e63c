"""Prometheus's files thirty times as fast: what takes a minute where they are used takes two seconds in a test.

Every duration is divided and nothing else is touched: how often is scraped and evaluated, how long an alert waits, ranges and
offsets in expressions. Thresholds and what is asked for stay as they are shipped, and so does the number of
samples in a range.
"""

import re

FASTER = 30
UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

# In YAML the values of these keys, in expressions [5m] and offset 5m.
DURATION = re.compile(
    r"(?P<before>\b(?:for|interval|scrape_interval|evaluation_interval):[ ]|\[|\boffset[ ])"
    r"(?P<number>\d+)(?P<unit>ms|[smhd])\b"
)


def hastened(text: str) -> str:
    def shorter(found: re.Match[str]) -> str:
        lasting_ms = int(found["number"]) * UNITS_MS[found["unit"]] // FASTER
        return f"{found['before']}{lasting_ms}ms"

    return DURATION.sub(shorter, text)
