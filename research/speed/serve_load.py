"""`prmagic serve` under load, beside `Segmenter.stream` in one process: requests a second, latency, memory, errors."""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

import prmagic
from prmagic.demo import cases
from prmagic.types import ByteArray


@dataclass
class Counts:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    errors: list[str] = field(default_factory=list)


def jpeg(image: ByteArray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, "JPEG", quality=92)
        return file.getvalue()


def sent(content: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(content).decode()}


def in_process(photos: list[bytes], reference: prmagic.Reference, seconds: float) -> tuple[float, float]:
    """Photos a second of `stream`, and seconds of CPU for each, which do not depend on what else runs."""
    segmenter = prmagic.load("persam-f")
    segmenter.segment(photos[0], reference)
    done, begin, used = 0, time.monotonic(), time.process_time()
    while time.monotonic() - begin < seconds:
        done += sum(1 for _ in segmenter.stream(photos, reference))
    return done / (time.monotonic() - begin), (time.process_time() - used) / done


def ask(url: str, photos: list[bytes], reference: str, end: float, counts: Counts) -> None:
    """One client: a photo after the other, as fast as the answers come."""
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=url, timeout=120, trust_env=False, headers=headers) as client:
        bodies = [json.dumps({"photos": [sent(photo)], "references": [reference]}) for photo in photos]
        number = 0
        while time.monotonic() < end:
            begin = time.monotonic()
            answer = client.post("/v1/segment", content=bodies[number % len(bodies)])
            if answer.status_code == 200:
                counts.seconds.append(time.monotonic() - begin)
            elif answer.status_code == 503:
                counts.busy += 1
                time.sleep(float(answer.headers["retry-after"]))
            else:
                counts.errors.append(f"{answer.status_code} {answer.text[:200]}")
            number += 1


def metric(url: str, name: str) -> float:
    """Of the server's process."""
    text = httpx.get(f"{url}metrics", trust_env=False, timeout=60).text
    found = re.search(rf"^process_{name} (\S+)", text, flags=re.MULTILINE)
    return float(found[1]) if found else float("nan")


def memory(url: str) -> float:
    """In MB."""
    return metric(url, "resident_memory_bytes") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    case = {case.name: case for case in cases()}
    photos = [jpeg(case[name].query) for name in ("cat", "coins", "cup", "rocket")]
    support = prmagic.Support(jpeg(case["cat"].support), case["cat"].support_mask)
    reference = prmagic.load("persam-f").encode_support(support, "cat")
    with tempfile.TemporaryDirectory() as store:
        reference.save(Path(store, "cat.safetensors"))
        alone, cpu = in_process(photos, reference, 20 * given.minutes / 5 + 5)
        command = [sys.executable, "-m", "prmagic", "serve", "--port", "0", "--store", store]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            url = re.search(r"http://\S+/", process.stderr.readline())
            assert url is not None
            try:
                report(url[0], photos, given.minutes, given.clients, alone)
            finally:
                process.terminate()
        again, _ = in_process(photos, reference, 20 * given.minutes / 5 + 5)
        print(f"in process: {alone:.2f} photos a second before, {again:.2f} after; {cpu:.3f} s of CPU each")


def report(url: str, photos: list[bytes], minutes: float, clients: int, alone: float) -> None:
    counts, end = Counts(), time.monotonic() + 60 * minutes
    httpx.post(
        f"{url}v1/segment", json={"photos": [sent(photos[0])], "references": ["cat"]}, timeout=120, trust_env=False
    )
    threads = [threading.Thread(target=ask, args=(url, photos, "cat", end, counts)) for _ in range(clients)]
    begin, used_before = time.monotonic(), metric(url, "cpu_seconds_total")
    for thread in threads:
        thread.start()
    used = [memory(url)]
    while time.monotonic() < end:
        time.sleep(min(15.0, max(0.1, end - time.monotonic())))
        used.append(memory(url))
    for thread in threads:
        thread.join()
    if not counts.seconds:
        raise SystemExit(f"no answer in {minutes:g} minutes: {counts.errors[:3]}")
    rate = len(counts.seconds) / (time.monotonic() - begin)
    p50, p95 = (float(np.percentile(counts.seconds, share)) for share in (50, 95))
    print(f"{clients} clients, {minutes:g} minutes, {len(counts.seconds)} answers, {len(counts.errors)} errors")
    print(f"{rate:.2f} photos a second, {rate / alone:.2f} of `stream` before it; {counts.busy} times busy")
    print(f"{(metric(url, 'cpu_seconds_total') - used_before) / len(counts.seconds):.3f} s of CPU for each")
    print(f"latency: p50 {p50:.2f} s, p95 {p95:.2f} s")
    print(f"memory: {' '.join(f'{each:.0f}' for each in used)} MB; median of the last third "
          f"{statistics.median(used[-max(1, len(used) // 3):]):.0f} MB")  # fmt: skip
    for error in counts.errors[:5]:
        print(error)


if __name__ == "__main__":
    main()
