"""A folder of messages as one collection: by number, by identity, mapped, written atomically."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, KeysView, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, SupportsIndex, TypeVar

from blake3 import blake3

from mmformat._files import open_new
from mmformat.arena.arguments import check_timeout
from mmformat.codec import encode
from mmformat.codec.decode import Library, decode
from mmformat.codec.verify import verify
from mmformat.dataset.index import SUFFIX, DatasetIndex, Entry
from mmformat.dataset.table import table_of
from mmformat.errors import DecodeError, IntegrityError, MMFormatError, ModelError, TransportError
from mmformat.model.arguments import check_path
from mmformat.model.compression import Compression
from mmformat.model.identity import identity_of
from mmformat.model.item import MultimodalDataItem, MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage

__all__ = ["Dataset", "DatasetFinding", "open_dataset"]

_PARTIAL: Final = ".mmformat-dataset.partial"
"""What a message is called while it is written; one name, so that nothing piles up."""

_DIGEST_DIGITS: Final = 64
_Default = TypeVar("_Default")


class DatasetFinding(NamedTuple):
    """Name what is wrong with one file: its name in the folder, a stable code, and the reason."""

    name: str
    code: str
    message: str


def open_dataset(
    folder: str | os.PathLike[str],
    *,
    create: bool = False,
    limits: Limits | None = None,
    library: Library | None = None,
    expand: bool = True,
    timeout_s: float = 60.0,
    **remote: Any,
) -> Dataset:
    """Open a folder of messages, at any depth, as one collection.

    Parameters
    ----------
    folder : path
        With ``*.arrows`` files, whoever wrote them; or the URL of a folder that another host
        serves, ``mmf+flight://host:port`` or ``mmf+flight+tls://host:port``.
    create : bool, default False
        Make the folder when it is not there.
    limits : Limits, optional
        What each message may ask for.
    library : {"torch", "numpy"}, optional
        Which tensors to make; each as it was sent when omitted.
    expand : bool, default True
        Expand dictionary tensors; otherwise they come as DictionaryTensor.
    timeout_s : float, default 60
        How long :meth:`Dataset.add` waits for another writer, or a remote message may take.
    **remote
        For a URL: ``cache``, ``capacity_nbytes``, ``tls``, ``token``, ``insecure``, as
        :func:`mmformat.dataset.remote.open_remote` takes them.

    Returns
    -------
    Dataset
        What is in the folder now; :meth:`Dataset.refresh` looks again.

    Raises
    ------
    TransportError
        When the folder is not there or cannot be read. A file that is no message does not stop
        the others: it stands in :attr:`Dataset.bad`.

    Notes
    -----
    **Copies**: none; no tensor is read. **Cost**: a look-up for each file; files that the folder's
    log does not know are opened once, and written to the log where that can be.

    Examples
    --------
    >>> import tempfile
    >>> import mmformat as mm
    >>> dataset = mm.open_dataset(tempfile.mkdtemp())
    >>> name = dataset.add(mm.MultimodalInputs(request_data={"a": 1}))
    >>> len(dataset), dataset[0].request_data
    (1, {'a': 1})
    """
    check_timeout(timeout_s)
    if isinstance(folder, str) and folder.startswith("mmf+flight"):
        from mmformat.dataset.remote import open_remote

        return open_remote(
            folder, limits=limits, library=library, expand=expand, timeout_s=timeout_s, **remote
        )
    if remote:
        raise ModelError(f"{sorted(remote)} are for a URL, got a folder", path="$.folder")
    path = check_path(folder, name="folder", error=TransportError)
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransportError(f"expected to make {path}, got: {error}") from error
    dataset = Dataset(path, Limits.of(limits), library, expand, timeout_s)
    dataset.refresh()
    return dataset


class Dataset:
    """Hold what a folder of messages contains; :func:`mmformat.open_dataset` makes it.

    ``len``, iteration and numbers are of messages, in the order of their names and then of their
    coming; ``in``, :meth:`get` and :attr:`identities` are of items. A message is mapped and
    decoded when it is asked for, and kept by its tensors alone. A dataset can be sent to other
    processes, which then have the same numbers.

    Notes
    -----
    **Copies**: as ``decode``: none of a plain tensor, which lies where the file is mapped.
    **Lifetime**: tensors outlive the dataset. Their pages are private: who writes to a tensor
    changes neither the file nor what others see.
    """

    __slots__ = (
        "_bad",
        "_entries",
        "_expand",
        "_index",
        "_library",
        "_limits",
        "_numbers",
        "_places",
        "_timeout_s",
        "folder",
    )

    def __init__(
        self, folder: Path, limits: Limits, library: Library | None, expand: bool, timeout_s: float
    ) -> None:
        self.folder = folder
        self._limits = limits
        self._library = library
        self._expand = expand
        self._timeout_s = timeout_s
        self._index = DatasetIndex(folder)
        self._entries: list[Entry] = []
        self._numbers: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._bad: dict[str, MMFormatError] = {}

    def __repr__(self) -> str:
        bad = f", {len(self._bad):,} bad" if self._bad else ""
        return (
            f"Dataset({str(self.folder)!r}, {len(self):,} messages, "
            f"{len(self._places):,} identities{bad})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        options = (self.folder, self._limits, self._library, self._expand, self._timeout_s)
        return (_restored, (options, [tuple(entry) for entry in self._entries], self._bad))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[MultimodalInputs]:
        # Of what there was at the start: adding in the loop does not make it endless.
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: SupportsIndex) -> MultimodalInputs:
        """Return a message's inputs, decoded anew.

        Raises
        ------
        IndexError
            When there are not so many.
        DecodeError, LimitError
            When the file is not, or no longer, a message within the limits; the path names it.
        """
        return self._decoded(self._entries[operator.index(number)])

    def __contains__(self, identity: object) -> bool:
        return identity in self._places

    @property
    def names(self) -> tuple[str, ...]:
        """The files' paths within the folder, by number."""
        return tuple(entry.name for entry in self._entries)

    @property
    def identities(self) -> KeysView[str]:
        """The identities of all items that have one."""
        return self._places.keys()

    @property
    def bad(self) -> Mapping[str, MMFormatError]:
        """The files that were no messages, each with the error that says why."""
        return MappingProxyType(self._bad)

    def get(
        self, identity: str, default: _Default | None = None
    ) -> MultimodalDataItem | _Default | None:
        """Return the item of an identity, decoded anew; ``default`` when there is none.

        Raises
        ------
        DecodeError, LimitError
            As for a number.
        IntegrityError
            With code ``dataset-changed`` when the file was overwritten and its log is wrong.
        """
        place = self._places.get(str(identity))
        if place is None:
            return default
        entry = self._entries[place[0]]
        items = self._decoded(entry).items
        if len(items) <= place[1] or items[place[1]].identity != identity:
            raise IntegrityError(
                f"expected the item {identity} in {entry.name}, got another file",
                path=f"$.items[{place[1]}]",
                code="dataset-changed",
                hint="dataset.refresh(); messages are not written over, but added",
            )
        return items[place[1]]

    def add(self, inputs: MultimodalInputs, *, compression: Compression | str | None = None) -> str:
        """Write a message, unless the folder has the same bytes, and return its name.

        Parameters
        ----------
        inputs : MultimodalInputs
            Materialized, so that its items have identities.
        compression : Compression, {"lz4", "auto"} or None
            As for :func:`mmformat.encode`.

        Returns
        -------
        str
            The path within the folder: the BLAKE3 digest of the message's bytes.

        Raises
        ------
        ModelError
            With code ``identity-taken`` when an item has an identity that the folder knows with
            another content: an identity never stands for two.
        EncodeError
            When a value cannot travel.
        TransportTimeoutError
            When another writer holds the folder for longer than ``timeout_s``.
        TransportError
            When the file cannot be written.

        Notes
        -----
        The file gets its name when all of it is on the disk; whenever a writer dies, the folder
        is valid. Any number of processes may add, one at a time. Messages that others added are
        taken in. **Cost**: each byte is hashed and written once, and the disk is waited for.
        """
        message = encode(inputs, compression)
        hasher = blake3()
        for frame in message:
            hasher.update(frame)
        digest = hasher.hexdigest()
        name = f"{digest[:2]}/{digest}{SUFFIX}"
        with self._index.locked(timeout_s=self._timeout_s) as log:
            for entry in self._index.catch_up():
                if self._index.exists(entry):
                    self._take(entry)
            known = self._index.known.get(name)
            if known is not None and self._index.exists(known):
                self._take(known)
                return name
            beside: dict[Any, Any] = {}
            for item in inputs.items:
                self._check_identity(item, beside)
            self._take(self._write(message, name, inputs, log))
        return name

    def refresh(self) -> None:
        """Look at the folder again; numbers are then of the names in order.

        Raises
        ------
        TransportError
            When the folder cannot be listed.
        """
        entries, self._bad = self._index.scan(self._limits)
        self._entries, self._numbers, self._places = [], {}, {}
        for entry in entries:
            self._take(entry)

    def verify(self) -> Iterator[DatasetFinding]:
        """Read every byte, and yield what is wrong: none means that all is as it was written.

        Yields
        ------
        DatasetFinding
            ``digest`` for bytes that are not those of the name that :meth:`add` gave, else the
            code of a broken promise of the format, as ``mmformat verify`` tells it.
        """
        for name, error in self._bad.items():
            yield DatasetFinding(name, error.code, str(error))
        for entry in list(self._entries):
            path = self.folder / entry.name
            try:
                digest = blake3().update_mmap(path).hexdigest()
                findings = verify(path, limits=self._limits)
            except (MMFormatError, OSError) as error:
                yield DatasetFinding(entry.name, getattr(error, "code", "source"), str(error))
                continue
            named = path.name.removesuffix(SUFFIX)
            if len(named) == _DIGEST_DIGITS and named != digest:
                yield DatasetFinding(entry.name, "digest", f"expected {named}, got {digest}")
            for each in findings:
                text = f"{each.message} - at {each.path}"
                yield DatasetFinding(entry.name, each.code, text)

    def to_table(self) -> Any:
        """Return the rows of every message as one ``pyarrow.Table``, a row an item.

        Raises
        ------
        DecodeError
            If a message breaks a promise of the format; pyarrow is never given such bytes.
        TransportError
            If a file cannot be read.

        Notes
        -----
        **Copies**: none of uncompressed messages, which are mapped. **Cost**: every byte is read
        once, to be verified. **Lifetime**: the table keeps the mappings.
        """
        paths = [self.folder / name for name in self.names]
        for path in paths:
            broken = [finding for finding in verify(path, limits=self._limits) if finding.refused]
            if broken:
                raise DecodeError(f"{path.name}: {broken[0].message}", code=broken[0].code)
        return table_of(paths)

    def _take(self, entry: Entry) -> None:
        if entry.name in self._numbers:
            return  # read in the log again, or written again after it was deleted
        self._numbers[entry.name] = len(self._entries)
        for at, identity in enumerate(entry.identities):
            if identity is not None:
                self._places.setdefault(identity, (len(self._entries), at))
        self._entries.append(entry)

    def _decoded(self, entry: Entry) -> MultimodalInputs:
        try:
            return decode(
                self.folder / entry.name,
                limits=self._limits,
                library=self._library,
                expand=self._expand,
            )
        except MMFormatError as error:
            raise type(error)(
                f"{entry.name}: {error.reason}", path=error.path, hint=error.hint, code=error.code
            ) from error

    def _check_identity(self, item: MultimodalDataItem, beside: dict[Any, Any]) -> None:
        name, there = "the same message", beside.setdefault(item.identity, item)
        if item.identity is None or (there is item and item.identity not in self._places):
            return
        if there is item:
            number, at = self._places[item.identity]
            name = self._entries[number].name
            try:
                there = decode(self.folder / name, limits=self._limits, expand=False).items[at]
            except (DecodeError, IndexError):
                return  # nobody has it any more
        if identity_of(replace(there, identity=None)) != identity_of(replace(item, identity=None)):
            raise ModelError(
                f"expected the content that {name} has for the identity {item.identity}, got "
                "another",
                code="identity-taken",
                hint="make the identity of all that the tensors depend on: media, processor, dtype",
            )

    def _write(
        self, message: EncodedMessage, name: str, inputs: MultimodalInputs, log: Any
    ) -> Entry:
        partial, target = self.folder / _PARTIAL, self.folder / name
        try:
            with os.fdopen(open_new(partial), "wb") as file:
                for frame in message:
                    file.write(frame)
                file.flush()
                os.fsync(file.fileno())
                status = os.fstat(file.fileno())
            identities = tuple(item.identity for item in inputs.items)
            entry = Entry(name, status.st_size, status.st_mtime_ns, identities)
            # Before the name is given: a file that the log lacks costs more than a line too many.
            log.append([entry])
            made = not target.parent.exists()
            target.parent.mkdir(exist_ok=True)
            partial.replace(target)
            for folder in (target.parent, self.folder)[: 1 + made]:
                _sync(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise TransportError(f"expected to write {target}, got: {error}") from error
        self._index.catch_up()
        return entry


def _restored(
    options: tuple[Any, ...], entries: list[tuple[Any, ...]], bad: dict[str, MMFormatError]
) -> Dataset:
    dataset = Dataset(*options)
    for entry in entries:
        dataset._take(Entry(*entry))
    dataset._bad = bad
    return dataset


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
