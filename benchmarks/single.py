"""One node and one origin: how long does it take until a model is there, against the usual programs?

First one large file, then many of 10 MiB. All programs fetch the same files from the same origin on loopback, one after
the other, in rounds that begin with another program each time, so that a busy minute of the machine hits all of them; what
counts are medians, and ratios within one run. What a program has written is removed before the next begins.

The agent resolves, fetches, checks every sha256, syncs to the disk and publishes; the others fetch, and check and sync
nothing. Its time begins when it is told to fetch, as controller and agent run already when a model comes; `wall_ratio_hf_cold`
is with the start of its process, which imports everything that both do and resolves once more.

Just before the time of each begins, twice the memory that it needs is taken and freed, and the origin's files are read
(`benchmarks.memory`). The row "sha256 beside it" is no program that anybody has: curl, while a thread computes the sha256 of as
many bytes without reading any. It says what verifying costs somebody who receives like curl.

On a disk that is slower than the network, what is measured is mostly the disk: the agent waits for its data to be durable,
the others leave theirs in the page cache. `--directory /dev/shm` takes the disk out of the comparison.

    python -m benchmarks.single [--bytes N] [--files N] [--file-bytes N] [--rounds N] [--directory DIR]

`wall_ratio_hf`, `wall_ratio_aria2`: the large file; `many_...`: the many; `beside_ratio_hf`: of that row, against hf;
`peak_rss_mib`: the most of all rounds; `cpu_s_per_gib`: user and system time of the agent for the large file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import memory, report
from benchmarks.agent_process import AgentProcess, Done
from benchmarks.origin import Origin, environment, random_files

MIB, GIB = 1 << 20, 1 << 30
HASHED_BYTES = 512 * MIB
LARGE, MANY = "bench/large", "bench/many"
AGENT, COLD = "agent, verified", "the same with its start"
BESIDE = "curl, sha256 beside it"


class Job(NamedTuple):
    """What is to be fetched."""

    repository: str
    files: Sequence[str]
    size: int
    url: str

    def addresses(self) -> list[str]:
        """Where plain HTTP clients find the files."""
        return [f"{self.url}/{self.repository}/resolve/main/{file}" for file in self.files]


Program = Callable[[Job, Path], None]


class Run(NamedTuple):
    """What one run of a program took. `cpu` is user and system time of its process, None where that is not apart."""

    seconds: float
    cpu: float | None


Times = dict[str, list[Run]]


def programs() -> Mapping[str, Program | None]:
    """How each other program fetches a job into a directory; None for those that are not installed."""
    hf = Path(sysconfig.get_path("scripts")) / "hf"
    return {
        "hf download": _hf if hf.exists() else None,
        "aria2c -x4": _aria2 if shutil.which("aria2c") else None,
        "aria2c -x4, no preallocation": _aria2_sparse if shutil.which("aria2c") else None,
        "curl": _curl if shutil.which("curl") else None,
        BESIDE: _curl_and_sha256 if shutil.which("curl") else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-single-", dir=options.directory) as name:
        directory = Path(name)
        size = random_files(directory / "origin" / LARGE, {"model.safetensors": options.bytes})
        names = {f"model-{number:05}.safetensors": options.file_bytes for number in range(options.files)}
        many_size = random_files(directory / "origin" / MANY, names)
        with Origin(directory / "origin") as origin:
            single = Job(LARGE, ["model.safetensors"], size, origin.url)
            large, large_done = measure(single, options.rounds, directory)
            _show(f"One file of {size / MIB:,.0f} MiB, {options.rounds} rounds", single, large, large_done)
            several = Job(MANY, list(names), many_size, origin.url)
            many, many_done = measure(several, options.rounds, directory)
            _show(f"{options.files} files of {options.file_bytes / MIB:,.0f} MiB", several, many, many_done)
    peak = max(done["peak_rss_bytes"] for done in (*large_done, *many_done)) / MIB
    cpu = statistics.median(done["cpu_seconds"] for done in large_done) / (size / GIB)
    report.show("The agent process", ["what", "value"], [["peak memory, MiB", peak], ["CPU s / GiB", cpu]])
    report.finish(
        {
            "wall_ratio_hf": _against(large, "hf download"),
            "wall_ratio_aria2": _against(large, "aria2c -x4"),
            "wall_ratio_aria2_sparse": _against(large, "aria2c -x4, no preallocation"),
            "wall_ratio_hf_cold": _against(large, "hf download", COLD),
            "beside_ratio_hf": _against(large, "hf download", BESIDE),
            "many_wall_ratio_hf": _against(many, "hf download"),
            "many_beside_ratio_hf": _against(many, "hf download", BESIDE),
            "peak_rss_mib": peak,
            "cpu_s_per_gib": cpu,
        }
    )
    return 0


def measure(job: Job, rounds: int, directory: Path) -> tuple[Times, list[Done]]:
    """Seconds of every program, one for each round, and what the agents said."""
    times: Times = {AGENT: [], COLD: [], **{name: [] for name in programs()}, "sha256 of this CPU": []}
    done: list[Done] = []

    def sha256(job: Job, target: Path) -> None:
        times["sha256 of this CPU"].append(Run(job.size / sha256_rate(), None))

    contestants: list[tuple[str, Program | None]] = [(AGENT, None), ("", sha256)]
    contestants += [(name, program) for name, program in programs().items() if program is not None]
    for number in range(rounds):
        start = number % len(contestants)
        for name, program in contestants[start:] + contestants[:start]:
            target = directory / "target"
            target.mkdir()
            os.sync()
            if program is None:
                started, ended = _agent(job, target, directory)
                done.append(ended)
                times[AGENT].append(Run(ended["seconds"], ended["cpu_seconds"]))
                times[COLD].append(Run(started + ended["seconds"], None))
            else:
                _prepare(directory, job)
                before, cpu_before = time.perf_counter(), _cpu_of_children()
                program(job, target)
                if name:
                    times[name].append(Run(time.perf_counter() - before, _cpu_of_children() - cpu_before))
            shutil.rmtree(target)
    return times, done


def sha256_rate() -> float:
    """Bytes per second of one thread, from memory."""
    before = time.perf_counter()
    hash_memory(HASHED_BYTES)
    return HASHED_BYTES / (time.perf_counter() - before)


def hash_memory(count: int) -> None:
    """Computes the sha256 of `count` bytes, the same mebibyte again and again."""
    buffer = memoryview(os.urandom(MIB))
    digest = hashlib.sha256()
    for start in range(0, count, MIB):
        digest.update(buffer[: min(MIB, count - start)])


def _cpu_of_children() -> float:
    """User and system seconds of all processes that were started here and have ended (the origin has not)."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _prepare(directory: Path, job: Job) -> None:
    memory.prepare(directory / "memory", job.size, directory / "origin" / job.repository)


def _agent(job: Job, target: Path, directory: Path) -> tuple[float, Done]:
    """Seconds until the process was ready, and what it did then."""
    before = time.perf_counter()
    with AgentProcess(target / "cache", job.repository, job.url) as agent:
        agent.ready()
        started = time.perf_counter() - before
        _prepare(directory, job)
        agent.go()
        return started, agent.done()


def _hf(job: Job, target: Path) -> None:
    hf = Path(sysconfig.get_path("scripts")) / "hf"
    # Without progress bars, which cost it time, and without asking anybody but this origin.
    quiet = environment(
        HF_ENDPOINT=job.url,
        HF_HOME=str(target / "home"),
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_UPDATE_CHECK="1",
    )
    _run([str(hf), "download", job.repository, "--quiet"], quiet)


def _aria2(job: Job, target: Path, *more: str) -> None:
    addresses = target / "addresses"
    addresses.write_text("".join(f"{address}\n" for address in job.addresses()))
    _run(["aria2c", "-x4", "--quiet", "--no-conf", f"--dir={target}", f"--input-file={addresses}", *more])


def _aria2_sparse(job: Job, target: Path) -> None:
    # By default it writes zeros into the whole file first, where fallocate(2) would do.
    _aria2(job, target, "--file-allocation=none")


def _curl(job: Job, target: Path) -> None:
    config = target / "config"
    pairs = zip(job.addresses(), job.files, strict=True)
    config.write_text("".join(f'url = "{address}"\noutput = "{target / file}"\n' for address, file in pairs))
    _run(["curl", "-q", "-fsSL", "--parallel", "--parallel-max", "4", "--config", str(config)])


def _curl_and_sha256(job: Job, target: Path) -> None:
    beside = threading.Thread(target=hash_memory, args=(job.size,))
    beside.start()
    _curl(job, target)
    beside.join()


def _run(command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
    result = subprocess.run(
        command, env=environ or environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
    )
    if result.returncode != 0:
        said = (result.stderr + result.stdout)[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}: {said}")


def _against(times: Times, other: str, agent: str = AGENT) -> float | None:
    return report.ratio(_median(times[agent]), _median(times[other]))


def _median(runs: Sequence[Run]) -> float | None:
    return statistics.median(run.seconds for run in runs) if runs else None


def _show(title: str, job: Job, times: Times, agents: Sequence[Done]) -> None:
    ours = _median(times[AGENT])
    rows: list[list[object]] = []
    notes = []
    for name, runs in times.items():
        median = _median(runs)
        if median is None:
            notes.append(f"{name.partition(' ')[0]} is not installed here: not measured.")
        walls = [run.seconds for run in runs]
        cpus = [run.cpu for run in runs if run.cpu is not None]
        cpu = statistics.median(cpus) if cpus else None
        rate = report.ratio(job.size / MIB, median)
        rows.append(
            [name, median, min(walls, default=None), max(walls, default=None), cpu, rate, report.ratio(ours, median)]
        )
    steps = [statistics.median(agent[step] for agent in agents) for step in ("received_seconds", "verified_seconds")]
    notes.append("The agent, medians: all bytes here after {:.3g} s, verified after {:.3g} s.".format(*steps))
    columns = ["program", "median s", "fastest s", "slowest s", "CPU s", "MiB/s", "agent / it"]
    report.show(title, columns, rows, notes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single", description="Fetch models, against others.")
    parser.add_argument("--bytes", type=int, default=2 * GIB, help="of the large file (default 2 GiB)")
    parser.add_argument("--files", type=int, default=200, help="how many smaller files (default 200)")
    parser.add_argument("--file-bytes", type=int, default=10 * MIB, help="of each of them (default 10 MiB)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs (default 5)")
    parser.add_argument(
        "--directory", type=Path, help="where to put everything, three times the bytes (default: for temporary files)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
