"""The plot of a load test: latency by percentile, and answers over time."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from service.loadtest.report import PERCENTS, Report
from service.loadtest.tally import STEP_S

# Over time, more points than this are a scribble.
MOST_POINTS = 60
# A pair that colour-blind readers tell apart, as does a grey print.
ANSWERED, FAILED = "#0072B2", "#D55E00"


def draw(report: Report, path: Path) -> None:
    """Write the plot, as PNG or SVG by the path's suffix."""
    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    figure.suptitle(report.scenario.title(), fontsize=12, fontweight="bold")
    figure.supxlabel("\n".join([_caption(report), *report.remarks()]), fontsize=9, wrap=True)
    latencies, timeline = figure.subplots(1, 2)
    _draw_latencies(latencies, report)
    _draw_timeline(timeline, report)
    figure.savefig(path)


def _caption(report: Report) -> str:
    return (
        f"{report.requests_per_s:,.0f} requests/s ({report.requests_per_s * report.scenario.rows:,.0f} rows/s), "
        f"{report.requests:,} requests in {report.tally.measured_s:.1f} s, {report.failed:,} errors"
    )


def _draw_latencies(axes: Axes, report: Report) -> None:
    """Draw latency over percentile, each further nine as wide as the last."""
    slowness = np.geomspace(1, 1000, 300)  # one request in so many is slower
    latencies = report.tally.latencies
    axes.plot(slowness, [latencies.percentile_s(100 - 100 / x) * 1000 for x in slowness], color=ANSWERED)
    for percent in PERCENTS:
        value_ms = report.latencies_ms[f"p{percent:g}"]
        x = 100 / (100 - percent)
        axes.plot(x, value_ms, "o", color=ANSWERED, markersize=4)
        axes.annotate(
            f"{value_ms:.3g}", (x, value_ms), (-4, 5), textcoords="offset points", ha="right", fontsize=9
        )
    axes.set(xscale="log", xlim=(1, 1150), xlabel="percentile of the requests", ylabel="latency (ms)")
    # Headroom for the last label; without a single answer there is nothing to scale by.
    axes.set_ylim(0, report.latencies_ms["p99.9"] * 1.12 if len(latencies) else 1)
    axes.set_title("Latency by percentile", fontsize=10)
    axes.xaxis.set_major_locator(FixedLocator([1, *(100 / (100 - percent) for percent in PERCENTS)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 - 100 / x:.4g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


def _draw_timeline(axes: Axes, report: Report) -> None:
    """Draw answers and errors a second, in at most MOST_POINTS steps."""
    tally = report.tally
    # The last step may be cut short, and would look like a slump.
    whole_steps = max(1, int(tally.measured_s / STEP_S))
    joined = -(-whole_steps // MOST_POINTS)
    starts = range(0, whole_steps - joined + 1, joined)
    width_s = joined * STEP_S
    middles_s = [start * STEP_S + width_s / 2 for start in starts]
    for name, counts, colour in (
        ("answered 2xx", tally.answered, ANSWERED),
        ("errors", tally.failed, FAILED),
    ):
        if name == "errors" and not counts:
            continue
        rates = [sum(counts[start + step] for step in range(joined)) / width_s for start in starts]
        axes.plot(middles_s, rates, marker=".", color=colour, label=name)
    axes.set(
        xlabel="time since the warm-up (s)", ylabel="requests/s", xlim=(0, max(tally.measured_s, STEP_S))
    )
    axes.set_ylim(0, None)
    axes.set_title("Answers over time", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
