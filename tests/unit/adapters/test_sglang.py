"""The mapping's own logic, on dicts and classes of the same kinds; the real: make engines."""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import mmformat as mm
from mmformat.adapters.readers import Readers
from mmformat.adapters.sglang import from_mmformat, install, to_mmformat
from mmformat.adapters.sglang.fields import defaults_of, fields_of
from mmformat.adapters.sglang.handles import Announcer, open_media
from mmformat.adapters.sglang.plugin import VARIABLE, _install_or_log, register


@dataclasses.dataclass
class AsDataclass:
    needed: int
    size: int | None = None
    names: list[str] = dataclasses.field(default_factory=list)


class AsStruct(msgspec.Struct, kw_only=True, dict=True):
    size: int | None = None
    needed: int
    names: list[str] = []


@pytest.mark.parametrize("cls", [AsDataclass, AsStruct])
def test_fields_and_defaults_of_both_kinds(cls: Any) -> None:
    known = defaults_of(cls)
    assert set(known) == {"needed", "size", "names"}
    assert (known["size"], known["names"]) == (None, [])
    value = cls(needed=1)
    value.added = 5
    assert fields_of(value) == {"needed": 1, "size": None, "names": [], "added": 5}
    assert not any(known["needed"] == other for other in (None, 0, 1, [], {}))


def test_a_dict_of_dicts_is_taken_whole() -> None:
    media = {
        "mm_items": [
            {
                "modality": "AUDIO",
                "feature": torch.ones(3),
                "hash": -5,
                "pad_value": 9,
                "offsets": [(1, 4)],
                "format": "PROCESSOR_OUTPUT",
                "identity": bytes(range(32)),
                "model_specific_data": {"feature_lens": torch.tensor([3]), "hash": "mine"},
                "novel": (1, 2),
            }
        ],
        "audio_token_id": 11,
        "unset": None,
    }
    inputs = mm.decode(mm.encode(to_mmformat(media)))
    item = inputs.items[0]
    assert (item.modality, item.format) == (mm.Modality.AUDIO, mm.InputFormat.PROCESSOR_OUTPUT)
    assert (item.hash, item.pad_value, item.offsets) == (-5, 9, [(1, 4)])
    assert item.identity == bytes(range(32)).hex()
    assert item.model_specific_data["novel"] == (1, 2)
    assert item.model_specific_data["sglang.data.hash"] == "mine"
    assert inputs.request_data == {"audio_token_id": 11, "unset": None}


def test_offsets_of_another_shape_are_kept_beside() -> None:
    inputs = to_mmformat({"mm_items": [{"modality": "IMAGE", "offsets": [[1, 2]]}]})
    assert inputs.items[0].offsets is None
    assert inputs.items[0].model_specific_data == {"sglang.offsets": [[1, 2]]}


def test_an_extent_becomes_a_tuple() -> None:
    data = {"shape": torch.Size([2, 3])}
    inputs = to_mmformat({"mm_items": [{"modality": "IMAGE", "model_specific_data": data}]})
    assert type(inputs.items[0].model_specific_data["shape"]) is tuple


@pytest.mark.parametrize("value", [3, object(), {"a": 1}, [3], {"mm_items": 5}])
def test_other_objects_are_refused(value: Any) -> None:
    with pytest.raises(mm.ModelError, match="expected"):
        to_mmformat(value)


def test_an_unknown_modality_is_named() -> None:
    with pytest.raises(mm.ModelError, match=r"got 'SMELL' - at \$\.mm_items\[0\]\.modality"):
        to_mmformat({"mm_items": [{"modality": "SMELL"}]})


@pytest.mark.skipif("sglang" in sys.modules, reason="SGLang is installed")
def test_without_the_engine_the_hint_is_how_to_install_it() -> None:
    with pytest.raises(mm.MissingExtraError) as caught:
        from_mmformat(mm.MultimodalInputs())
    assert caught.value.hint == "pip install sglang"


def test_the_plugin_is_off_until_its_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    monkeypatch.delenv(VARIABLE, raising=False)
    register()
    assert not {name for name in set(sys.modules) - before if name.startswith("sglang")}
    monkeypatch.setenv(VARIABLE, "plenty")
    with pytest.raises(mm.ModelError, match="got 'plenty'"):
        register()


@dataclasses.dataclass
class Item:
    feature: Any
    model_specific_data: dict[str, Any]
    modality: str = "IMAGE"
    hash: int | None = 5
    pad_value: int | None = 9


def media() -> dict[str, Any]:
    return {"mm_items": [Item(torch.rand(300, 1176), {"grid": torch.tensor([[1, 15, 20]])})]}


def create() -> mm.Arena:
    return mm.Arena.create(nbytes=2**23, ranks=1)


def test_an_arena_whose_name_is_removed_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer(create(), renew=create)
    first = announcer.arena
    Path("/dev/shm", first.name).unlink()
    handle = announcer.handle_of(media())
    assert handle is not None
    assert announcer.arena is not first
    assert dict(announcer.counts) == {"arenas_lost": 1, "handles": 1, "bytes": 1411200, "hits": 0}
    assert "was removed before every rank attached" in caplog.text
    ranks = Readers(0)
    feature: Any = ranks.get(handle).items[0].feature
    assert feature.shape == (300, 1176)
    del feature
    ranks.close()
    announcer.arena.close()


def test_the_name_goes_once_every_rank_has_attached() -> None:
    announcer = Announcer(create(), renew=create)
    path = Path("/dev/shm", announcer.arena.name)
    ranks = Readers(0)
    for _ in range(3):
        handle = announcer.handle_of(media())
        assert handle is not None
        assert ranks.get(handle).items[0].hash == 5
        gc.collect()
    assert not path.exists()
    assert announcer.counts["arenas_lost"] == 0
    assert announcer.counts["handles"] == 3
    ranks.close()
    announcer.arena.close()


def test_only_features_hold_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmformat.adapters.sglang.handles.from_mmformat", lambda made, _cls: made)
    ranks = Readers(0)
    with create() as arena:
        handle = Announcer(arena).handle_of(media())
        assert handle is not None
        opened = open_media(ranks, handle, cls=dict)
        assert arena.stats().slots_granted == 1
        opened.items[0].feature = None  # as the engine's release_features does
        gc.collect()
        arena.reap()
        assert arena.stats().slots_granted == 0
        assert opened.items[0].model_specific_data["grid"].tolist() == [[1, 15, 20]]
        ranks.close()


def test_a_server_that_the_adapter_cannot_serve_starts_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = type("Manager", (), {"server_args": type("Arguments", (), {"dp_size": 2})})
    with caplog.at_level(logging.INFO, "mmformat.sglang"):
        _install_or_log("tokenizer", manager, lambda: pytest.fail("installed"))
        _install_or_log("scheduler", object(), lambda: "rank 0")
    off, on = (record.getMessage() for record in caplog.records)
    assert off.startswith("mmformat is off in tokenizer")
    assert off.endswith("dp_size must be 1, got 2")
    assert on.startswith("mmformat is on in scheduler")
    assert on.endswith("rank 0")


def test_several_hosts_are_refused() -> None:
    class Manager:
        send_to_scheduler = None
        server_args = type("Arguments", (), {"nnodes": 2})

    with pytest.raises(mm.ModelError, match="nnodes must be 1, got 2"):
        install(Manager())
