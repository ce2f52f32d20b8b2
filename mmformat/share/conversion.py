"""Convert many old pickles into message files: in parallel, resumable, each whole or not at all."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mmformat.codec import encode
from mmformat.errors import MMFormatError, ModelError
from mmformat.legacy import Conversion, PickleLimits, convert_all
from mmformat.legacy.landing import TensorMaker
from mmformat.model.compression import Compression
from mmformat.share.comparison import verify_file
from mmformat.share.journal import Journal, write_message

__all__ = ["ConversionSummary", "FileResult", "convert_files", "find_sources"]

SUFFIXES: Final = frozenset({".pkl", ".pickle", ".p", ".pt", ".pth"})
"""The files of a folder that are taken; a file that is named itself is always taken."""

_AHEAD: Final = 4
_BUG: Final = "unexpected"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """Say what became of one source.

    Parameters
    ----------
    source : str
        Its path.
    status : {"converted", "convertible", "done before", "failed"}
        ``"convertible"`` is what a dry run says of a file that it read without writing.
    outputs : list of str
        The messages; one for each request that the source holds.
    requests, tensors, source_nbytes, output_nbytes : int
        Counts of the source and sizes.
    duration_s : float
        Seconds of work.
    verified : bool
        Whether what was written was decoded again and found equal.
    error : dict or None
        ``class``, ``code``, ``message`` and ``hint`` of a failure.
    report : dict or None
        The :class:`mmformat.legacy.ConversionReport`, as JSON values.
    """

    source: str
    status: str
    outputs: list[str] = field(default_factory=list)
    requests: int = 0
    tensors: int = 0
    source_nbytes: int = 0
    output_nbytes: int = 0
    duration_s: float = 0.0
    verified: bool = False
    error: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class ConversionSummary:
    """Collect the results of a run, in the order of the sources.

    Examples
    --------
    >>> ConversionSummary(results=[FileResult(source="a.pkl", status="failed")]).failed
    1
    """

    results: list[FileResult] = field(default_factory=list)
    duration_s: float = 0.0

    def count(self, status: str) -> int:
        """Return how many sources ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def failed(self) -> int:
        """How many sources could not be converted."""
        return self.count("failed")

    @property
    def ok(self) -> bool:
        """Whether no source failed."""
        return not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {
            "sources": len(self.results),
            "converted": self.count("converted"),
            "convertible": self.count("convertible"),
            "done_before": self.count("done before"),
            "failed": self.failed,
            "verified": sum(result.verified for result in self.results),
            "requests": sum(result.requests for result in self.results),
            "tensors": sum(result.tensors for result in self.results),
            "source_nbytes": sum(result.source_nbytes for result in self.results),
            "output_nbytes": sum(result.output_nbytes for result in self.results),
            "duration_s": self.duration_s,
            "results": [asdict(result) for result in self.results],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    source: Path
    target: Path
    compression: Compression | None
    verify: bool
    dry_run: bool
    isolated: bool
    limits: PickleLimits | None
    sglang_version: str | None

    def key(self) -> dict[str, Any]:
        """Return what must be the same for an earlier result to hold."""
        status = self.source.stat()
        compression = None if self.compression is None else asdict(self.compression)
        return {
            "source": str(self.source.absolute()),
            "nbytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "target": self.target.name,
            "compression": compression,
            "sglang_version": self.sglang_version,
        }


def convert_files(
    sources: Sequence[str | os.PathLike[str]],
    destination: str | os.PathLike[str],
    *,
    workers: int | None = None,
    compression: Compression | str | None = None,
    verify: bool = False,
    dry_run: bool = False,
    again: bool = False,
    isolated: bool = True,
    limits: PickleLimits | None = None,
    sglang_version: str | None = None,
    progress: Callable[[FileResult, int, int], None] | None = None,
) -> ConversionSummary:
    """Convert files, folders and globs of old pickles into message files.

    Parameters
    ----------
    sources : sequence of paths and patterns
        A file, a folder (its pickles, at any depth), or a glob.
    destination : path
        A folder: ``a/b.pkl`` of the folder ``a`` becomes ``b.pkl.arrows`` in it, and the requests
        of a file with several become ``b.pkl.0000.arrows`` and so on. Or, for one source with one
        request, a file that ends in ``.arrows``.
    workers : int, optional
        Threads, each with a sandbox process of its own; as many as CPUs when omitted.
    compression : Compression, {"lz4", "auto"} or None
        As for :func:`mmformat.encode`.
    verify : bool
        Decode what was written and compare every tensor by its hash, and all else by value.
    dry_run : bool
        Read and convert, but write nothing.
    again : bool
        Convert also what an earlier run has done.
    isolated, limits, sglang_version
        As for :func:`mmformat.convert`.
    progress : callable, optional
        Called in this thread after each source, with its result, how many are done, and how many
        there are.

    Returns
    -------
    ConversionSummary
        A source that fails is a result with its reason; it does not stop the others.

    Raises
    ------
    ModelError
        When nothing matches, or two sources would become one file.
    TransportError
        When the destination cannot be written, or another run is writing to it.

    Notes
    -----
    A message is written under another name and renamed, and is noted in the destination's
    ``.mmformat-convert.jsonl`` once it is on the disk: a run that is killed leaves whole files, and
    the next one does what is not noted. A source that has changed since is converted again.
    """
    begin_s = time.monotonic()
    target = Path(destination)
    pairs = list(find_sources(sources))
    if not pairs:
        raise ModelError(f"expected files, got none for {', '.join(map(str, sources))}")
    one = target.suffix == ".arrows" and not target.is_dir()
    if one and len(pairs) > 1:
        raise ModelError(f"expected one source for one file, got {len(pairs)}", hint="-o FOLDER")
    jobs = [
        _Job(
            source=path,
            target=target if one else target / f"{name}.arrows",
            compression=Compression.of(compression),
            verify=verify,
            dry_run=dry_run,
            isolated=isolated,
            limits=limits,
            sglang_version=sglang_version,
        )
        for path, name in pairs
    ]
    _check_targets(jobs)
    folder = target.parent if one else target
    TensorMaker().prepare()
    with Journal(folder, dry_run=dry_run) as journal:
        results = _run_all(jobs, journal, workers=workers, again=again, progress=progress)
    return ConversionSummary(results=results, duration_s=time.monotonic() - begin_s)


def find_sources(sources: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[Path, str]]:
    """Yield each source once, sorted within each argument, with its name in the destination.

    Examples
    --------
    >>> list(find_sources(["/nothing/*.pkl"]))
    []
    """
    seen: set[Path] = set()
    for source in sources:
        path = Path(source)
        found: list[tuple[Path, str]]
        if path.is_dir():
            found = [
                (part, part.relative_to(path).as_posix())
                for part in sorted(path.rglob("*"))
                if part.suffix.lower() in SUFFIXES and part.is_file()
            ]
        elif path.exists() or not glob.has_magic(str(source)):
            found = [(path, path.name)]
        else:
            matches = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207 - ** and absolute patterns
            found = [(Path(match), Path(match).name) for match in matches if Path(match).is_file()]
        for part, name in found:
            if part.absolute() not in seen:
                seen.add(part.absolute())
                yield part, name


def _check_targets(jobs: list[_Job]) -> None:
    taken: dict[Path, Path] = {}
    for job in jobs:
        other = taken.setdefault(job.target, job.source)
        if other is not job.source:
            raise ModelError(
                f"expected a name for each source, got {job.target.name} for {other} and "
                f"{job.source}",
                hint="give their common folder instead: names keep the folders within it",
            )


def _run_all(
    jobs: list[_Job],
    journal: Journal,
    *,
    workers: int | None,
    again: bool,
    progress: Callable[[FileResult, int, int], None] | None,
) -> list[FileResult]:
    count = workers or os.cpu_count() or 1
    results: list[FileResult | None] = [None] * len(jobs)
    done = 0

    def take(index: int, result: FileResult) -> None:
        nonlocal done
        results[index] = result
        done += 1
        if progress is not None:
            progress(result, done, len(jobs))

    with ThreadPoolExecutor(count, "mmformat-convert") as threads:
        running: dict[Future[FileResult], int] = {}
        try:
            for index, job in enumerate(jobs):
                running[threads.submit(_one, job, journal, again)] = index
                # Not all at once: a Future and its result for each of a million files is memory.
                while len(running) >= count * _AHEAD:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        take(running.pop(future), future.result())
            for future in list(running):
                take(running[future], future.result())
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [result for result in results if result is not None]


def _one(job: _Job, journal: Journal, again: bool) -> FileResult:
    begin_s = time.monotonic()
    source = str(job.source)
    try:
        key = job.key()
        entry = None if again else journal.done(key, job.target.parent)
        if entry is not None:
            outputs = [str(job.target.parent / name) for name in entry["outputs"]]
            return FileResult(source=source, status="done before", outputs=outputs)
        result = _convert(job, source, begin_s)
        if not job.dry_run:
            journal.add(key, result.outputs)
        return result
    except MMFormatError as error:
        problem = {"code": error.code, "message": str(error), "hint": error.hint}
    except OSError as error:
        problem = {"code": "io", "message": str(error), "hint": None}
    except Exception as error:  # a bad file never stops the others, and never goes unsaid
        problem = {"code": _BUG, "message": f"{type(error).__name__}: {error}", "hint": None}
    return FileResult(
        source=source, status="failed", error=problem, duration_s=time.monotonic() - begin_s
    )


def _convert(job: _Job, source: str, begin_s: float) -> FileResult:
    conversion = convert_all(
        job.source, limits=job.limits, isolated=job.isolated, sglang_version=job.sglang_version
    )
    outputs: list[str] = []
    nbytes = 0
    for inputs, path in zip(conversion.inputs, _names(job.target, conversion), strict=True):
        message = encode(inputs, job.compression)
        nbytes += message.nbytes
        if job.dry_run:
            continue
        write_message(message, path)
        outputs.append(str(path))
        if job.verify:
            verify_file(inputs, path)
    return FileResult(
        source=source,
        status="convertible" if job.dry_run else "converted",
        outputs=outputs,
        requests=len(conversion.inputs),
        tensors=conversion.report.tensors,
        source_nbytes=conversion.report.nbytes,
        output_nbytes=nbytes,
        duration_s=time.monotonic() - begin_s,
        verified=job.verify and not job.dry_run,
        report=conversion.report.as_dict(),
    )


def _names(target: Path, conversion: Conversion) -> list[Path]:
    if len(conversion.inputs) == 1:
        return [target]
    stem = target.name.removesuffix(".arrows")
    return [
        target.with_name(f"{stem}.{index:04}.arrows") for index in range(len(conversion.inputs))
    ]
