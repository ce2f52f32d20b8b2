"""One source of a batch: what is to be done, the doing, and how the result was compared."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from blake3 import blake3

from mmformat.codec import encode
from mmformat.codec.decode import decode
from mmformat.errors import IntegrityError, MMFormatError
from mmformat.legacy import Conversion, PickleLimits, convert_all
from mmformat.legacy.batch.journal import write_message
from mmformat.model.compression import Compression
from mmformat.model.item import MultimodalInputs
from mmformat.model.tensors import is_tensor, tensor_buffer, tensor_spec

__all__ = [
    "FileResult",
    "Job",
    "digests",
    "verify_file",
]


def digests(inputs: MultimodalInputs) -> list[tuple[str, str]]:
    """Return a path and a text for each value of the inputs; of a tensor its dtype, shape, hash.

    Two inputs are equal when these lists are.

    Examples
    --------
    >>> digests(MultimodalInputs(request_data={"n": 7}))
    [('$.request_data', 'dict of 1'), ("$.request_data['n']", '7')]
    """
    made: list[tuple[str, str]] = []
    for index, item in enumerate(inputs.items):
        for name in ("modality", "format", "hash", "pad_value", "identity", "offsets", "feature",
                     "precomputed_embeddings", "model_specific_data"):  # fmt: skip
            _digest(getattr(item, name), f"$.items[{index}].{name}", made)
    _digest(inputs.request_data, "$.request_data", made)
    return made


def _digest(value: Any, path: str, made: list[tuple[str, str]]) -> None:
    if is_tensor(value):
        spec = tensor_spec(value, path=path)
        mark = blake3(memoryview(tensor_buffer(value, path=path))).hexdigest()
        made.append((path, f"{spec.dtype} {spec.shape} {mark}"))
    elif isinstance(value, dict):
        made.append((path, f"dict of {len(value)}"))
        for key, part in value.items():
            _digest(part, f"{path}[{key!r}]", made)
    elif isinstance(value, list | tuple):
        made.append((path, f"{type(value).__name__} of {len(value)}"))
        for index, part in enumerate(value):
            _digest(part, f"{path}[{index}]", made)
    else:
        made.append((path, repr(value)))


def verify_file(inputs: MultimodalInputs, path: Path) -> None:
    """Decode a message file and compare it with the inputs; an unequal one is removed.

    Raises
    ------
    IntegrityError
        Naming the first value that differs.
    DecodeError
        When the file is no message.
    """
    wanted, got = digests(inputs), digests(decode(path))
    for (where, one), (there, other) in zip(wanted, got, strict=False):
        if (where, one) != (there, other):
            path.unlink(missing_ok=True)
            raise IntegrityError(f"expected {one} at {where}, got {other} at {there}")
    if len(wanted) != len(got):
        path.unlink(missing_ok=True)
        raise IntegrityError(f"expected {len(wanted)} values, got {len(got)}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Say what is to be done with one source; as JSON values it travels to a worker process.

    Examples
    --------
    >>> job = Job(source=Path("a.pkl"), target=Path("a.pkl.arrows"))
    >>> Job.of(job.as_dict()) == job
    True
    """

    source: Path
    target: Path
    compression: Compression | None = None
    verify: bool = False
    dry_run: bool = False
    isolated: bool = True
    limits: PickleLimits | None = None
    sglang_version: str | None = None
    replaces: Sequence[str] = ()
    """Names of messages that an earlier run made of this source."""
    force: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the job as JSON values."""
        return {**asdict(self), "source": os.fspath(self.source), "target": os.fspath(self.target)}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Return the job that :meth:`as_dict` told."""
        compression, limits = values["compression"], values["limits"]
        parts = {
            "source": Path(values["source"]),
            "target": Path(values["target"]),
            "compression": None if compression is None else Compression(**compression),
            "limits": None if limits is None else PickleLimits(**limits),
            "replaces": tuple(values["replaces"]),
        }
        return cls(**{**values, **parts})

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

    def run(self) -> FileResult:
        """Convert the source; whatever goes wrong is in the result."""
        begin_s = time.monotonic()
        source = str(self.source)
        try:
            return _convert(self, source, begin_s)
        except Exception as error:  # a bad file never stops the others, and never goes unsaid
            return self.failed(error, duration_s=time.monotonic() - begin_s)

    def failed(self, error: Exception, *, duration_s: float = 0.0) -> FileResult:
        """Return the result that says why the source was not converted."""
        problem: dict[str, Any] = {"code": _BUG, "message": f"{type(error).__name__}: {error}"}
        if isinstance(error, MMFormatError):
            problem = {"code": error.code, "message": str(error), "hint": error.hint}
        elif isinstance(error, OSError):
            problem = {"code": "io", "message": str(error)}
        problem.setdefault("hint", None)
        return FileResult(
            source=str(self.source), status="failed", error=problem, duration_s=duration_s
        )


def _convert(job: Job, source: str, begin_s: float) -> FileResult:
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
        write_message(message, path, replaces=job.force or path.name in job.replaces)
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
