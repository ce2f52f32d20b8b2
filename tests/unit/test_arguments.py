"""Whatever is passed to a public name, what comes out is a value or an error of ours."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import prometheus_client
import pytest
import torch
import zmq

import mmformat as mm
from mmformat.adapters import zmq as channel
from mmformat.media import lazy
from mmformat.shm import Handle
from mmformat.shm.layout import PAGE

WRONG: list[Any] = [
    None,
    -1,
    2**70,
    2.5,
    float("nan"),
    True,
    "",
    "zz",
    "a\0b",
    b"",
    b"zz",
    [],
    [3],
    [None],
    (1,),
    {},
    {"a": object()},
    {3: 3},
    object(),
    int,
    mm.Limits,
    threading.Lock(),
    np.zeros(3),
    np.zeros((2, 3))[:, 1:],
    torch.zeros(2),
    memoryview(b"abcdef")[::2],
]


class Case(NamedTuple):
    """A callable, and arguments that it accepts; each is replaced by each wrong one.

    Flags are left out: they are asked for their truth, as everywhere in Python.
    """

    call: Callable[..., Any]
    positional: Mapping[str, Any] = MappingProxyType({})
    keywords: Mapping[str, Any] = MappingProxyType({})


ITEM = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=np.ones((2, 3), np.float32))
INPUTS = mm.MultimodalInputs(items=[ITEM])
CODES = np.zeros((3, 4), np.uint8)
TABLE = np.zeros((1, 4), np.float32)
PICKLE = b"\x80\x04}\x8c\x01nK\x07s."


class World:
    """What the methods are called on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.arena = mm.Arena.create(nbytes=256 * PAGE, ranks=2, slots=512)
        self.memfd = mm.Arena.create(nbytes=PAGE, ranks=1, backing="memfd")
        self.handle = self.arena.put(INPUTS)
        self.reader = mm.Arena.attach(self.handle, rank=0)
        self.dataset = mm.open_dataset(directory / "dataset", create=True)
        self.pool = mm.MaterializePool(1)
        self.context = zmq.Context()
        self.left, self.right = self.context.socket(zmq.PAIR), self.context.socket(zmq.PAIR)
        self.left.bind("inproc://arguments")
        self.right.connect("inproc://arguments")
        self.ends = socket.socketpair()

    def close(self) -> None:
        self.pool.close(cancel=True)
        self.reader.close()
        self.arena.close()
        self.memfd.close()
        self.left.close(0)
        self.right.close(0)
        self.context.term()
        for end in self.ends:
            end.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("arguments"))
    yield made
    made.close()


def _sealed(world: World) -> Callable[..., Any]:
    def seal(inputs: Any = None, *, identity: Any = b"") -> None:
        with world.arena.reserve([((2, 3), "float32")], library="numpy") as slot:
            world.arena.reap()
            slot.seal(inputs, identity=identity)

    return seal


def _cases(world: World) -> dict[str, Case]:
    message = mm.encode(INPUTS)
    reading = {"device": "cpu", "limits": None}
    return {
        "Arena.create": Case(
            mm.Arena.create,
            {},
            {
                "nbytes": PAGE,
                "ranks": 1,
                "slots": 16,
                "backing": "memfd",
                "directory": None,
                "name": None,
                "registry": None,
            },
        ),
        "Arena.revoke": Case(world.arena.revoke, {"handle": world.handle}),
        "Arena.attach": Case(
            mm.Arena.attach,
            {"handle_or_name": world.handle},
            {
                "rank": 1,
                "directory": "/dev/shm",
                "timeout_s": 0.0,
                "device": None,
                "registry": None,
            },
        ),
        "Arena.attach_fd": Case(
            mm.Arena.attach_fd,
            {"fd": world.memfd.fileno()},
            {"rank": 0, "device": None, "registry": None},
        ),
        "Arena.materialize": Case(
            world.arena.materialize,
            {"inputs": INPUTS, "processor": None},
            {"fetcher": None, "timeout_s": 0.0, "reuse": "request"},
        ),
        "Arena.put": Case(
            world.arena.put,
            {"inputs": INPUTS},
            {"timeout_s": 0.0, "compression": None, "on_full": "inline", "reuse": "request"},
        ),
        "Arena.reserve": Case(
            world.arena.reserve,
            {"template": [((2, 3), "float32")]},
            {"timeout_s": 0.0, "headroom_nbytes": 4096, "library": "numpy"},
        ),
        "Arena.wait_released": Case(world.arena.wait_released, {}, {"timeout_s": 0.0}),
        "Reservation.seal": Case(_sealed(world), {"inputs": None}, {"identity": b""}),
        "ArenaReader.get": Case(
            world.reader.get, {"handle": message}, {**reading, "library": None, "out": None}
        ),
        "ArenaReader.get_async": Case(
            world.reader.get_async, {"handle": message}, {**reading, "out": None}
        ),
        "ArenaReader.prefetch": Case(world.reader.prefetch, {"handles": []}, reading),
        "ArenaReader.release": Case(world.reader.release, {"handle": world.handle}),
        "Compression": Case(
            mm.Compression, {}, {"codec": "auto", "threshold_nbytes": 1, "link_gbit_s": None}
        ),
        "Dataset.add": Case(world.dataset.add, {"inputs": INPUTS}, {"compression": None}),
        "Dataset.get": Case(world.dataset.get, {"identity": "none"}),
        "DictionaryTensor": Case(
            mm.DictionaryTensor,
            {"codes": CODES, "table": TABLE},
            {"axis": 0, "repeat_axis": 0, "repeat": 1, "shape": None},
        ),
        "DictionaryTensor.to": Case(mm.DictionaryTensor(CODES, TABLE).to, {"dtype": "float16"}),
        "DictionaryTensor.expand": Case(mm.DictionaryTensor(CODES, TABLE).expand, {"out": None}),
        "DictionaryTensor.expand_on": Case(
            mm.DictionaryTensor(CODES, TABLE).expand_on, {"device": "cpu"}
        ),
        "EncodedMessage": Case(mm.EncodedMessage, {"frames": [b"abc"]}),
        "EncodedMessage.save": Case(message.save, {"path": world.directory / "x.arrows"}),
        "EncodedMessage.write_into": Case(
            message.write_into, {"target": memoryview(bytearray(message.nbytes))}
        ),
        "Handle.from_bytes": Case(Handle.from_bytes, {"data": bytes(world.handle)}),
        "Limits": Case(mm.Limits, {}, dict.fromkeys(mm.Limits.__dataclass_fields__, 1)),
        "Limits.check": Case(mm.Limits().check, {"name": "items", "value": 1}, {"path": None}),
        "MultimodalDataItem": Case(
            mm.MultimodalDataItem,
            {},
            {
                "modality": "IMAGE",
                "feature": None,
                "precomputed_embeddings": None,
                "offsets": None,
                "format": "normal",
                "model_specific_data": {},
                "hash": None,
                "pad_value": None,
                "identity": None,
            },
        ),
        "MultimodalInputs": Case(mm.MultimodalInputs, {}, {"items": [], "request_data": {}}),
        "Source": Case(
            mm.Source,
            {"data": b"x"},
            {
                "kind": None,
                "fetcher": None,
                "max_nbytes": 1,
                "max_pixels": 1,
                "max_duration_s": 1.0,
            },
        ),
        "TensorSpec.nbytes": Case(
            lambda dtype, shape: mm.TensorSpec(dtype, shape).nbytes,
            {"dtype": "float32", "shape": (1,)},
        ),
        "convert": Case(
            partial(mm.convert, isolated=False),
            {"source": PICKLE},
            {
                "buffers": (),
                "limits": None,
                "library": "auto",
                "sglang_version": None,
            },
        ),
        "decode": Case(
            mm.decode, {"source": message, "device": "cpu"}, {"limits": None, "library": None}
        ),
        "encode": Case(mm.encode, {"inputs": INPUTS, "compression": None}),
        "materialize": Case(mm.materialize, {"inputs": INPUTS, "processor": None}, _FETCH),
        "materialize_async": Case(
            mm.materialize_async, {"inputs": INPUTS, "processor": None}, _FETCH
        ),
        "open_dataset": Case(
            mm.open_dataset,
            {"folder": world.directory / "dataset"},
            {"limits": None, "library": None, "timeout_s": 0.0},
        ),
        "MaterializePool": Case(
            mm.MaterializePool,
            {"workers": 1, "kind": "thread"},
            {"processor": None, "fetcher": None, "queue_size": None},
        ),
        "MaterializePool.submit": Case(
            world.pool.submit, {"inputs": INPUTS}, {"timeout_s": None, "queue_timeout_s": None}
        ),
        "MaterializePool.map": Case(
            _listed(world.pool.map), {"requests": []}, {"timeout_s": None, "errors": "raise"}
        ),
        "MaterializePool.materialize_async": Case(
            world.pool.materialize_async, {"inputs": INPUTS}, {"timeout_s": None}
        ),
        "zmq.send": Case(
            channel.send,
            {"socket": world.left, "payload": world.handle},
            {"route": b"", "topic": b"", "timeout_s": 0.0},
        ),
        "zmq.recv": Case(channel.recv, {"socket": world.right}, {"limits": None, "timeout_s": 0.0}),
    }


_FETCH = {"fetcher": None}
FLAGS = {"create", "expand", "isolated", "pin", "default", "writable"}
"""Asked for their truth; a default is anything."""


TOTAL = {"Dataset.get"}
"""What refuses nothing: like a dict's, it has an answer to whatever is asked for."""


def _listed(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def run(*arguments: Any, **keywords: Any) -> list[Any]:
        return list(call(*arguments, **keywords))

    return run


NAMES = (
    "Arena.attach",
    "Arena.attach_fd",
    "Arena.create",
    "Arena.materialize",
    "Arena.put",
    "Arena.reserve",
    "Arena.revoke",
    "Arena.wait_released",
    "ArenaReader.get",
    "ArenaReader.get_async",
    "ArenaReader.prefetch",
    "ArenaReader.release",
    "Compression",
    "Dataset.add",
    "Dataset.get",
    "DictionaryTensor",
    "DictionaryTensor.expand",
    "DictionaryTensor.expand_on",
    "DictionaryTensor.to",
    "EncodedMessage",
    "EncodedMessage.save",
    "EncodedMessage.write_into",
    "Handle.from_bytes",
    "Limits",
    "Limits.check",
    "MaterializePool",
    "MaterializePool.map",
    "MaterializePool.materialize_async",
    "MaterializePool.submit",
    "MultimodalDataItem",
    "MultimodalInputs",
    "Reservation.seal",
    "Source",
    "TensorSpec.nbytes",
    "convert",
    "decode",
    "encode",
    "materialize",
    "materialize_async",
    "open_dataset",
    "zmq.recv",
    "zmq.send",
)


def _dispose(made: Any) -> None:
    for name in ("close", "abandon"):
        if callable(getattr(made, name, None)) and not isinstance(made, type):
            getattr(made, name)()


def _waits_for_ever(name: str, wrong: Any) -> bool:
    """A long time is a valid one, and waiting for it would only prove that."""
    if not name.endswith("_s"):
        return False
    return wrong is None or (isinstance(wrong, (int, float)) and wrong > 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_argument_gives_a_value_or_our_own_error(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.directory)  # a name may be taken for a path
    monkeypatch.setattr(lazy, "_LOADERS", {})
    case = _cases(world)[name]
    escaped = []
    refused = 0
    for place in (*case.positional, *case.keywords):
        for wrong in WRONG:
            if _waits_for_ever(place, wrong):
                continue
            positional = {**case.positional, **({place: wrong} if place in case.positional else {})}
            keywords = {**case.keywords, **({place: wrong} if place in case.keywords else {})}
            try:
                made = case.call(*positional.values(), **keywords)
                if inspect.iscoroutine(made):
                    made = asyncio.run(made)
                _dispose(made)
            except mm.MMFormatError as error:
                assert error.code
                refused += 1
            except Exception as error:
                escaped.append(f"{place}={wrong!r:.40}: {type(error).__name__}: {error!s:.80}")
    assert escaped == []
    assert refused > 0 or name in TOTAL


def test_every_public_callable_has_its_case(world: World) -> None:
    cases = _cases(world)
    assert sorted(cases) == list(NAMES)
    for name, case in cases.items():
        covered = {*case.positional, *case.keywords}
        # Options of a remote address; a test of the dataset refuses them for a folder.
        parameters = inspect.signature(case.call).parameters.values()
        named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
        assert named - FLAGS == covered, name
    not_for_callers = {
        "ArenaReader": "made by Arena.attach",
        "PendingInputs": "made by ArenaReader.get_async",
        "Reservation": "made by Arena.reserve",
        "Arena": "made by Arena.create",
        "Dataset": "made by open_dataset",
        "Modality": "below",
        "InputFormat": "below",
        "TensorSpec": "a named tuple; its nbytes are asked",
    }
    public = {
        name
        for name in mm.__all__
        if callable(getattr(mm, name)) and not _is_error(getattr(mm, name))
    }
    assert public == {name.partition(".")[0] for name in NAMES if name[0] != "z"} - {
        "Handle"
    } | set(not_for_callers)


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


@pytest.mark.parametrize("kind", [mm.Modality, mm.InputFormat])
@pytest.mark.parametrize("wrong", [None, 3, "zz", b"IMAGE", [3], object()])
def test_what_is_no_member_is_our_error(kind: Any, wrong: object) -> None:
    with pytest.raises(mm.ModelError):
        kind(wrong)
    assert "IMAGE" in mm.Modality.__members__


def test_a_registry_is_still_one() -> None:
    registry = prometheus_client.CollectorRegistry()
    with mm.Arena.create(nbytes=PAGE, ranks=1, backing="memfd", registry=registry):
        assert registry.get_sample_value("mmformat_arena_put_seconds_count") == 0.0
