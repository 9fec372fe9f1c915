"""What the scripts of this folder say about the machine and the process."""

import os
import time


def cpu_model():
    fields = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    return "{} (family {}, model {}, stepping {}), {} cores".format(
        fields.get("model name"), fields.get("cpu family"), fields.get("model"), fields.get("stepping"), os.cpu_count())


def cpu_flags():
    """The instruction sets that decide about matrix products."""
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
    return [f for f in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f in flags]


def load_average():
    return round(os.getloadavg()[0], 2)


def seconds_since_start():
    """Wall seconds since this process was started, interpreter and imports included."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def reset_peak():
    """Starts a new peak of the resident set, so that each stage has its own."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
