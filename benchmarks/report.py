"The figures as a Markdown table"

from statistics import median


def time(side):
    "Median seconds, in the unit that fits"
    s = side["median"]
    return f"{s:.2f} s" if s >= 1 else f"{1e3 * s:.3g} ms"


def cost_of(side):
    "ℒ where it is one number"
    return f"{side['cost']:.4f}" if isinstance(side.get("cost"), float) else ""


def cells(row):
    "One row of the table"
    ours = row["ours"]
    peer = row.get("peer") or {}
    ratio = (
        f"{peer['median'] / ours['median']:.3g}×"
        if "median" in peer and row["family"] != "curves"
        else ""
    )
    theirs = (
        time(peer) + " (MNE)" * (row["rival"] == "mne")
        if "median" in peer
        else peer.get("failed", "–")
    )
    return (
        row["name"],
        row["threads"],
        time(ours),
        theirs,
        f"**{ratio}**" if ratio else "",
        row["aim"],
        cost_of(ours),
        cost_of(peer),
        f"{ours['peak_mb']:.0f}",
        f"{peer['peak_mb']:.0f}" if "peak_mb" in peer else "",
    )


HEAD = (
    "work",
    "threads",
    "ours",
    "peer",
    "ratio",
    "asked for",
    "ℒ, ours",
    "ℒ, peer",
    "peak MB, ours",
    "peer",
)


def markdown(results, families=None):
    "The table; curves and growth are for pictures, and left out unless asked for"
    rows = [
        r
        for r in results["works"]
        if (r["family"] in families if families else r["family"] not in ("curves", "growth"))
    ]
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    return "".join("| " + " | ".join(map(str, values)) + " |\n" for values in lines)


def short(x):
    return float(f"{x:.4g}")


def summary(runs):
    "Median and memory of the runs of one side"
    keep = {
        key: runs[-1][key] for key in ("n_iter", "violation", "path", "cost") if key in runs[-1]
    }
    if "path" in keep:
        keep["path"]["seconds"] = [short(s) for s in keep["path"]["seconds"]]
    if "parts" in runs[-1]:
        keep["parts"] = {
            key: short(median(r["parts"][key] for r in runs)) for key in runs[-1]["parts"]
        }
    seconds = [short(r["seconds"]) for r in runs]
    return (
        dict(
            median=median(seconds),
            seconds=seconds,
            peak_mb=round(max(r["peak_mb"] for r in runs), 1),
            before_mb=round(runs[-1]["before_mb"], 1),
        )
        | keep
    )
