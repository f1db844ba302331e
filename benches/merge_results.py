#!/usr/bin/env python3
"""Results of `warpconv bench`, put together and looked at: for gpu-session.sh, on a machine that has only Python.

    merge_results.py OUT.json PART.json...            one file of the parts of a run that was begun anew
    merge_results.py --drift BEFORE.json AFTER.json...   how far the times of the same rows have moved
    merge_results.py --furthest N RESULTS.json...     a regex of the N timed rows that are furthest from their floor

Of a row that is in several parts, the one that was timed counts, and otherwise the last that was run.
"""
import json
import math
import re
import sys


def read(paths):
    found = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                found.append(json.load(file))
        except (OSError, ValueError) as error:
            print(f"merge_results.py: {path} is left out: {error}", file=sys.stderr)
    if not found:
        sys.exit("merge_results.py: there are no results")
    return found


def merged(parts):
    rank = {"not_run": 0, "failed": 1, "unknown_op": 1, "wrong": 2, "timed": 3}
    rows = {}
    for part in parts:
        for row in part["rows"]:
            known = rows.get(row["id"])
            if known is None or rank[row["status"]] >= rank[known["status"]] and known["status"] != "timed":
                rows[row["id"]] = row
    # floors and device of the first part that measured any
    whole = next((part for part in parts if any(row["status"] == "timed" for row in part["rows"])), parts[0])
    return {**whole, "rows": list(rows.values()), "clocks": [clock for part in parts for clock in part.get("clocks", [])]}


def timed(results):
    return {row["id"]: row for row in results["rows"] if row["status"] == "timed"}


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    if arguments[0] == "--drift":
        before, after = (timed(merged(read(paths))) for paths in (arguments[1:2], arguments[2:]))
        ratios = {name: after[name]["time"]["median"] / row["time"]["median"] for name, row in before.items() if name in after}
        for name, ratio in ratios.items():
            print(f"{name:<64} {ratio:.4f} times as long as before")
        if not ratios:
            sys.exit("no row was timed twice")
        mean = math.exp(sum(math.log(ratio) for ratio in ratios.values()) / len(ratios))
        print(f"drift: {mean:.4f} in the geometric mean of {len(ratios)} rows, {max(ratios.values(), key=lambda r: abs(math.log(r))):.4f} at most")
    elif arguments[0] == "--furthest":
        rows = timed(merged(read(arguments[2:]))).values()
        rows = sorted((row for row in rows if row.get("percent_of_floor")), key=lambda row: row["percent_of_floor"])
        # as Rust's regex reads it: Python escapes more than that needs
        names = [re.sub(r"([.+*?()|\[\]{}^$\\])", r"\\\1", row["id"]) for row in rows[: int(arguments[1])]]
        if not names:
            sys.exit("no row was timed")
        print(f"^({'|'.join(names)})$")
    else:
        with open(arguments[0], "w", encoding="utf-8") as file:
            json.dump(merged(read(arguments[1:])), file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
