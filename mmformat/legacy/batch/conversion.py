"""Convert many old pickles into message files: in parallel, resumable, each whole or not at all."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mmformat.errors import ModelError
from mmformat.legacy import PickleLimits
from mmformat.legacy.batch.job import FileResult, Job
from mmformat.legacy.batch.journal import Journal
from mmformat.legacy.batch.workers import run_jobs
from mmformat.model.compression import Compression

__all__ = ["ConversionSummary", "FileResult", "convert_files", "find_sources"]

SUFFIXES: Final = frozenset({".pkl", ".pickle", ".p", ".pt", ".pth"})
"""The files of a folder that are taken; a file that is named itself is always taken."""


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
    journal: str | None = None
    """The file that notes what is done; None for a dry run."""

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
            "journal": self.journal,
            "results": [asdict(result) for result in self.results],
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
    force: bool = False,
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
        How many files at a time; as many as CPUs when omitted. They are threads, and processes
        where there are enough files to pay for their start; each has a sandbox of its own.
    compression : Compression, {"lz4", "auto"} or None
        As for :func:`mmformat.encode`.
    verify : bool
        Decode what was written and compare every tensor by its hash, and all else by value.
    dry_run : bool
        Read and convert, but write nothing.
    again : bool
        Convert also what an earlier run has done.
    force : bool
        Replace files that no earlier run made of the same source. Without it such a source fails
        with the code ``file-exists``.
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
        Job(
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
    with Journal(folder, dry_run=dry_run) as journal:
        jobs = [replace(job, replaces=journal.outputs_of(job.source), force=force) for job in jobs]
        results = _run_all(jobs, journal, workers=workers, again=again, progress=progress)
    return ConversionSummary(
        results=results,
        duration_s=time.monotonic() - begin_s,
        journal=None if dry_run else str(journal.path),
    )


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


def _check_targets(jobs: list[Job]) -> None:
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
    jobs: list[Job],
    journal: Journal,
    *,
    workers: int | None,
    again: bool,
    progress: Callable[[FileResult, int, int], None] | None,
) -> list[FileResult]:
    results: list[FileResult | None] = [None] * len(jobs)
    keys: dict[int, dict[str, Any]] = {}
    done = 0

    def take(index: int, result: FileResult) -> None:
        nonlocal done
        if result.status == "converted":
            journal.add(keys[index], result.outputs)
        results[index] = result
        done += 1
        if progress is not None:
            progress(result, done, len(jobs))

    for index, job in enumerate(jobs):
        try:
            # Before the conversion: a source that changes meanwhile is not done.
            keys[index] = key = job.key()
        except OSError as error:
            take(index, job.failed(error))
            continue
        entry = None if again else journal.done(key, job.target.parent)
        if entry is not None:
            outputs = [str(job.target.parent / name) for name in entry["outputs"]]
            del keys[index]
            take(index, FileResult(source=str(job.source), status="done before", outputs=outputs))
    run_jobs({index: jobs[index] for index in keys}, take, workers=workers or os.cpu_count() or 1)
    return [result for result in results if result is not None]
