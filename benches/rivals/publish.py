#!/usr/bin/env python3
"""Puts the reports of compare.py into a Markdown file, in place of what stands between its two marks.

    python benches/rivals/publish.py docs/benchmarks.md REPORT.md ...
"""

import sys

BEGIN, END = "<!-- measured by benches/rivals/table.sh: begin -->", "<!-- end of what was measured -->"


def main():
    document, *reports = sys.argv[1:]
    with open(document) as file:
        text = file.read()
    if BEGIN not in text or END not in text:
        sys.exit(f"{document}: expected the lines `{BEGIN}` and `{END}`")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    parts = []
    for path in reports:
        with open(path) as file:
            # one level below the document's own headings
            parts.append("".join("##" + line if line.startswith("# ") else line for line in file).strip())
    with open(document, "w") as file:
        file.write(before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
