"""S3: how long does it take until a model is there, against `s5cmd cp` and `aws s3 cp`?

One object of 2 GiB, then 200 of 10 MiB, in `nanio` on loopback, put there by s5cmd. All programs fetch the same objects, one
after the other, in rounds that begin with another program each time; what counts are medians, and ratios within one run.
What a program has written is removed before the next begins.

The agent resolves, fetches, computes every sha256 and compares what S3 publishes, syncs to the disk and publishes; the
others fetch, and sync nothing. The time of the agent begins when it is told to fetch, as an agent runs already when a model
comes; `..._cold` is with the start of its process. `s3_verified` says that every program has got what was uploaded, in every
round. Just before the time of each begins, twice the memory that it needs is taken and freed, and the server's files are read
(`benchmarks.memory`).

    python -m benchmarks.sources [--bytes N] [--files N] [--file-bytes N] [--rounds N] [--directory DIR]

`s3_ratio_s5cmd`, `s3_ratio_aws`: the one object; `s3_many_ratio_s5cmd`, `s3_many_ratio_aws`: the many. None: not installed.
`..._s5cmd_sha256`: against s5cmd and then `sha256sum`. `s3_beside_ratio_s5cmd`: what s5cmd takes, while a thread computes the
sha256 of as many bytes without reading any, of what it takes alone. With two cores, of which the server takes one, nobody who
receives like s5cmd and verifies can be faster than that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import memory, report
from benchmarks.agent_process import NAME, NAMESPACE, AgentProcess
from benchmarks.origin import environment, random_files
from benchmarks.single import hash_memory
from local.ports import free_port
from modelcache.paths import CachePaths

MIB, GIB = 1 << 20, 1 << 30
BUCKET = "bench"
ONE, MANY = "one", "many"
START_SECONDS = 60.0
AGENT, COLD = "agent, verified", "the same with its start"
CHECKED, BESIDE = "s5cmd cp, then sha256sum", "s5cmd cp, sha256 beside it"
PART_MIB = 64
"""What s5cmd asks for at once, where that divides the object; its default is 50."""
SCRIPTS = Path(sysconfig.get_path("scripts"))
Times = dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    names = {f"model-{number:05}.safetensors": options.file_bytes for number in range(options.files)}
    with tempfile.TemporaryDirectory(prefix="bench-sources-", dir=options.directory) as name:
        directory = Path(name)
        with nanio(directory / "nanio"):
            one = _measure(directory, ONE, {"model.safetensors": options.bytes}, options.rounds)
            many = _measure(directory, MANY, names, options.rounds)
    result: dict[str, object] = {"s3_verified": True}
    for key, times in (("s3", one), ("s3_many", many)):
        for other, column in (("s5cmd", "s5cmd cp"), ("s5cmd_sha256", CHECKED), ("aws", "aws s3 cp")):
            result[f"{key}_ratio_{other}"] = report.ratio(_median(times[AGENT]), _median(times[column]))
            result[f"{key}_ratio_{other}_cold"] = report.ratio(_median(times[COLD]), _median(times[column]))
        result[f"{key}_beside_ratio_s5cmd"] = report.ratio(_median(times[BESIDE]), _median(times["s5cmd cp"]))
    report.finish(result)
    return 0


@contextmanager
def nanio(data: Path) -> Iterator[None]:
    """Runs the server; from then on this process's environment names it, and an identity that may do everything there."""
    port = free_port()
    key, secret = "AKIABENCHMARK0000000", secrets.token_hex(20)
    os.environ.update(
        AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true",
    )  # fmt: skip
    command = [SCRIPTS / "nanio", "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", data,
               "--no-access-log", "--log-level", "error"]  # fmt: skip
    process = subprocess.Popen(
        [str(part) for part in command], env=environment(NANIO_ACCESS_KEY=key, NANIO_SECRET_KEY=secret),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port, process)
        _s5cmd("mb", f"s3://{BUCKET}")
        yield
    finally:
        process.terminate()
        process.wait()


def programs(size: int, part_mib: int = PART_MIB) -> Mapping[str, Callable[[str, Path], None] | None]:
    """How each other program fetches a folder of `size` bytes into a directory; None for those that are not installed.

    `part_mib`: how much s5cmd asks for at once.
    """

    def s5cmd(prefix: str, target: Path) -> None:
        _s5cmd("cp", "--part-size", str(part_mib), f"s3://{BUCKET}/{prefix}/*", f"{target}/")

    def s5cmd_and_check(prefix: str, target: Path) -> None:
        # What somebody has to do who wants to know what the agent knows: the sha256 of every file, of which S3 has none.
        s5cmd(prefix, target)
        _run("sha256sum", *map(str, target.iterdir()))

    def s5cmd_and_sha256(prefix: str, target: Path) -> None:
        beside = threading.Thread(target=hash_memory, args=(size,))
        beside.start()
        s5cmd(prefix, target)
        beside.join()

    installed = (SCRIPTS / "s5cmd").exists()
    return {
        "s5cmd cp": s5cmd if installed else None,
        CHECKED: s5cmd_and_check if installed else None,
        BESIDE: s5cmd_and_sha256 if installed else None,
        "aws s3 cp": _fetch_with_aws if shutil.which("aws") else None,
    }


def part_of(size: int) -> int:
    """MiB of the largest part, up to `PART_MIB`, that divides an object of `size` bytes.

    nanio 0.1 refuses a range that goes beyond the end, where S3 shortens it. Raises ValueError when there is none.
    """
    for part in range(PART_MIB, 0, -1):
        if size % (part * MIB) == 0:
            return part
    raise ValueError(
        f"{size} bytes: the size of objects has to be a multiple of {MIB} here, because of nanio and s5cmd"
    )


def _measure(directory: Path, prefix: str, sizes: Mapping[str, int], rounds: int) -> Times:
    """Seconds of every program, one for each round."""
    size = random_files(directory / prefix, sizes)
    expected = _tree(directory / prefix)
    _s5cmd("cp", f"{directory / prefix}/", f"s3://{BUCKET}/{prefix}/")
    shutil.rmtree(directory / prefix)
    others = programs(size, min(map(part_of, sizes.values())))
    times: Times = {AGENT: [], COLD: [], **{name: [] for name in others}}

    contestants = [(AGENT, None), *((name, run) for name, run in others.items() if run is not None)]
    for number in range(rounds):
        start = number % len(contestants)
        for name, run in contestants[start:] + contestants[:start]:
            target = directory / "target"
            target.mkdir()
            os.sync()
            before = time.perf_counter()
            if run is None:
                with AgentProcess(target / "cache", f"s3://{BUCKET}/{prefix}", "http://127.0.0.1:9") as process:
                    process.ready()
                    started = time.perf_counter() - before
                    memory.prepare(directory / "memory", size, directory / "nanio")
                    process.go()
                    times[AGENT].append(process.done()["seconds"])
                times[COLD].append(started + times[AGENT][-1])
            else:
                memory.prepare(directory / "memory", size, directory / "nanio")
                before = time.perf_counter()
                run(prefix, target)
                times[name].append(time.perf_counter() - before)
            got = _tree(CachePaths(target / "cache").current(NAMESPACE, NAME).resolve() if run is None else target)
            if got != expected:
                raise RuntimeError(f"{name}: what was fetched is not what was put there")
            shutil.rmtree(target)
    ours = _median(times[AGENT])
    rows = [
        [name, _median(runs), min(runs, default=None), max(runs, default=None),
         report.ratio(size / MIB, _median(runs)), report.ratio(ours, _median(runs))]
        for name, runs in times.items()
    ]  # fmt: skip
    title = f"S3, {len(sizes)} object(s), {size / MIB:,.0f} MiB, {rounds} rounds"
    report.show(title, ["program", "median s", "fastest s", "slowest s", "MiB/s", "agent / it"], rows)
    return times


def _fetch_with_aws(prefix: str, target: Path) -> None:
    _run("aws", "s3", "cp", "--recursive", "--only-show-errors", f"s3://{BUCKET}/{prefix}/", f"{target}/")


def _s5cmd(*arguments: str) -> None:
    _run(str(SCRIPTS / "s5cmd"), "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "--log", "error", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(
        command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stderr + done.stdout)[-2000:]}")


def _tree(directory: Path) -> dict[str, str]:
    """Path -> sha256 of every file."""
    tree = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                tree[str(path.relative_to(directory))] = hashlib.file_digest(file, "sha256").hexdigest()
    return tree


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("nanio did not start")


def _median(runs: Sequence[float]) -> float | None:
    return statistics.median(runs) if runs else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sources", description="Fetch from S3, against others.")
    parser.add_argument("--bytes", type=int, default=2 * GIB, help="of the one object (default 2 GiB)")
    parser.add_argument("--files", type=int, default=200, help="how many smaller objects (default 200)")
    parser.add_argument("--file-bytes", type=int, default=10 * MIB, help="of each of them (default 10 MiB)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (default 3)")
    parser.add_argument("--directory", type=Path, help="where to put everything (default: for temporary files)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
