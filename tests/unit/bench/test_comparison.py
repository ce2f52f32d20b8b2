"""A user's own message is measured by every method that can carry it, and every bit is compared."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import mmformat as mm
from mmformat.bench import methods
from mmformat.bench.comparison import compare_methods, subject_of
from mmformat.bench.methods import METHODS, PlainMethod
from mmformat.bench.payloads import digests_of
from mmformat.cli import main
from mmformat.errors import ModelError


def _inputs() -> mm.MultimodalInputs:
    table = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    codes = torch.tensor([[0, 1], [1, 1], [1, 0]], dtype=torch.uint8)
    return mm.MultimodalInputs(
        items=[
            mm.MultimodalDataItem(
                modality="IMAGE",
                feature=torch.randn(40, 30),
                model_specific_data={"nested": {"grid": torch.tensor([[1, 2, 3]]), "n": [1, "x"]}},
                hash=2**63 + 5,
            ),
            mm.MultimodalDataItem(
                modality="IMAGE", feature=mm.DictionaryTensor(codes, table, axis=0)
            ),
            mm.MultimodalDataItem(modality="AUDIO", precomputed_embeddings=torch.ones(2, 7)),
        ],
        request_data={"im_token_id": 7},
    )


def test_a_message_is_carried_whole_by_every_method(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    mm.encode(_inputs()).save(path)
    subject = subject_of(str(path))
    assert subject.nbytes == 40 * 30 * 4 + 3 * 8 + 3 * 2 * 4 + 2 * 7 * 4
    assert digests_of(subject.make(0)) == digests_of(mm.decode(path))
    (found,) = compare_methods([subject], ranks=0, rounds=2)
    assert found.missing == {}
    assert found.is_correct
    assert {
        name: cell.metrics["encode_ns"].n for name, cell in found.alone.items()
    } == dict.fromkeys(METHODS, 20)


def test_an_old_pickle_is_read_without_executing_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"pixel_values": torch.ones(3, 4)}, protocol=4))
    assert subject_of(str(path)).nbytes == 48
    path.write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(mm.UnsafePickleError):
        subject_of(str(path))


def test_a_message_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    mm.encode(mm.MultimodalInputs(request_data={"text": "only"})).save(path)
    with pytest.raises(ModelError, match="has no tensors"):
        subject_of(str(path))


class _Refuses(PlainMethod):
    name = "refuses"

    def encode(self, inputs: Any) -> Any:
        raise TypeError("not such a thing")


class _Lies(PlainMethod):
    name = "lies"

    def decode(self, frames: Any) -> Any:
        decoded = super().decode([bytearray(memoryview(frame)) for frame in frames])
        decoded.items[0].feature[0, 1] += 1
        return decoded


def test_what_cannot_carry_is_named_and_what_lies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (_Refuses, _Lies):
        monkeypatch.setitem(methods.METHODS, each.name, each)
    subjects = [subject_of("1x4KiB")]
    (found,) = compare_methods(subjects, methods=["mmformat", "refuses", "lies"], ranks=0, rounds=1)
    assert found.missing == {"refuses": "cannot carry this message: TypeError: not such a thing"}
    assert found.alone["mmformat"].correct
    assert not found.alone["lies"].correct
    assert not found.is_correct


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = ["bench", "1x4KiB", "--ranks", "0", "--rounds", "1", "--method", "mmformat"]
    assert main([*chosen, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["tensor_nbytes"], told["correct"]) == (4096, True)
    assert main([*chosen, "--method", "pickle5", "--json", str(tmp_path / "x.json")]) == 0
    assert "pickle 5, in-band" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "x.json").read_text())[0]["methods"]) == 2
    assert main(["bench", "nonsense"]) == 3
    assert main(["bench", "--method", "nonsense"]) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)  # three processes import torch
def test_ranks_of_their_own_read_every_bit() -> None:
    (found,) = compare_methods([subject_of("2x64KiB")], ranks=2, rounds=2)
    assert found.is_correct
    assert {cell.metrics["touched_ns"].n for cell in found.shared.values()} == {2}
