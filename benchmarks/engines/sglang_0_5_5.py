"""SGLang 0.5.5's own objects, as far as a request's media pass through them."""

from __future__ import annotations

import types
from typing import Any

from tests.integration.engines.real import module

NAME = "sglang 0.5.5"
WAYS = ("as shipped", "as shipped, hash known", "mmformat", "mmformat, hash known")


def manager(address: str, tp_size: int, *, context: Any) -> Any:
    """Return a TokenizerManager that has what its sending methods use."""
    import zmq

    cls = module("sglang.srt.managers.tokenizer_manager").TokenizerManager
    made = cls.__new__(cls)
    made.server_args = types.SimpleNamespace(tp_size=tp_size, dp_size=1, nnodes=1)
    made.rid_to_state = {}
    made.send_to_scheduler = context.socket(zmq.PUSH)
    made.send_to_scheduler.bind(address)
    return made


def item(modality: str, feature: Any, *, hash_known: bool = False, **data: Any) -> Any:
    """Return a MultimodalDataItem; its hash is what the engine's own function makes of it."""
    schedule = module("sglang.srt.managers.schedule_batch")
    made = schedule.MultimodalDataItem(
        modality=schedule.Modality[modality],
        feature=feature,
        offsets=[(0, 9)],
        model_specific_data=data,
    )
    if hash_known:
        made.set_pad_value()
    return made


def request(rid: str, items: list[Any], **fields: Any) -> Any:
    """Return a TokenizedGenerateReqInput with these media, in the dict form of this version."""
    structs = module("sglang.srt.managers.io_struct")
    return structs.TokenizedGenerateReqInput(
        rid=rid,
        input_text="",
        input_ids=[],
        mm_inputs={"mm_items": items, **fields},
        sampling_params=module("sglang.srt.sampling.sampling_params").SamplingParams(),
        return_logprob=False,
        logprob_start_len=0,
        top_logprobs_num=0,
        token_ids_logprob=[],
        stream=False,
    )


def send(sender: Any, tokenized: Any) -> None:
    sender._send_one_request(types.SimpleNamespace(rid=tokenized.rid), tokenized)
    sender.rid_to_state.clear()


def send_batch(sender: Any, tokenized: list[Any]) -> None:
    sender._send_batch_request([types.SimpleNamespace(rid=t.rid) for t in tokenized], tokenized)
    sender.rid_to_state.clear()


def send_control(sender: Any, rid: str) -> None:
    sender.send_to_scheduler.send_pyobj(module("sglang.srt.managers.io_struct").AbortReq(rid=rid))


def scheduler(rank: int, tp_size: int, *, sockets: tuple[Any, Any], group: Any) -> Any:
    """Return a Scheduler that has what receiving and preparing media uses."""
    cls = module("sglang.srt.managers.scheduler").Scheduler
    made = cls.__new__(cls)
    made.server_args = types.SimpleNamespace(
        enable_dp_attention=False, dp_size=1, nnodes=1, tp_size=tp_size
    )
    made.model_config = types.SimpleNamespace(is_multimodal=True)
    made.recv_from_tokenizer, made.recv_from_rpc = sockets
    made.recv_skipper = made.input_blocker = made.last_batch = None
    made.pp_rank = 0
    made.tp_rank = made.attn_tp_rank = rank
    made.tp_size = tp_size
    made.tp_group = group
    made.tp_cpu_group = made.cpu_group = group.cpu_group
    made.is_entry_rank = rank == 0
    made.enable_trace = False
    return made


def receive(receiver: Any) -> list[Any]:
    return receiver.recv_requests()


def media(receiver: Any, received: Any) -> Any:
    """Return the MultimodalInputs of a received request, as handle_generate_request gets them."""
    return receiver._process_and_broadcast_mm_inputs(received.mm_inputs)
