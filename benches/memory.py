"""Runs a command of `ascribe` and says what it kept in memory, stage by stage.

    python benches/memory.py target/release/ascribe influence --model M --train T --queries Q --out RUN --memory 400MiB

Every 20 ms it reads the process's own figures (Linux): anonymous pages, which nothing but the process can give back,
and pages of mapped files, which the system may take at any time. Their sum is the resident set; the last line has the
kernel's own peak of it.
"""

import json
import subprocess
import sys
import threading
import time


def status(pid):
    fields = {}
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem"):
                fields[name] = int(value.split()[0]) / 1024
    return fields


def main():
    command = sys.argv[1:] + ["--progress", "json"]
    stage, peaks, spans = ["start"], {}, {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def listen():
        for line in process.stderr:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                sys.stderr.write(line)
                continue
            if event.get("event") == "started":
                stage[0] = event.get("pass") or event.get("stage") or str(event)
            if event.get("event") == "plan":
                for note in event["summary"]["notes"]:
                    print("note:", note)
            if event.get("event") == "error":
                print(event)

    listener = threading.Thread(target=listen)
    listener.start()
    last = {}
    while process.poll() is None:
        try:
            found = status(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            break
        if "VmRSS" not in found:
            break
        last = found
        peak = peaks.setdefault(stage[0], {})
        for name in ("VmRSS", "RssAnon", "RssFile"):
            peak[name] = max(peak.get(name, 0), found[name])
        first, _ = spans.get(stage[0], (time.time(), 0))
        spans[stage[0]] = (first, time.time())
        time.sleep(0.02)
    code = process.wait()
    listener.join()
    print(f"{'stage':<20} {'seconds':>8} {'resident':>9} {'anonymous':>9} {'files':>9}  peaks in MiB")
    for name, peak in peaks.items():
        seconds = spans[name][1] - spans[name][0]
        print(f"{name:<20} {seconds:8.1f} {peak['VmRSS']:9.0f} {peak['RssAnon']:9.0f} {peak['RssFile']:9.0f}")
    print(f"exit code {code}, the kernel's peak of the resident set {last.get('VmHWM', 0):.0f} MiB")


if __name__ == "__main__":
    main()
