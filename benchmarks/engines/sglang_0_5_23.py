"""SGLang 0.5.23's own objects, as far as a request's media pass through them."""

from __future__ import annotations

import asyncio
import types
from typing import Any

from benchmarks.engines.sglang_0_5_5 import item  # noqa: F401  # made alike in both versions
from tests.integration.engines.real import module

NAME = "sglang 0.5.23"
WAYS = ("as shipped", "as shipped, hash known", "mmformat", "mmformat, hash known")


def _configure(tp_size: int, rank: int = 0) -> Any:
    context = module("sglang.srt.runtime_context")
    arguments = context.get_context().override_server_args(tp_size=tp_size).install()
    context.get_parallel().override_permanently(
        tp_rank=rank, pp_rank=0, attn_tp_rank=rank, attn_cp_rank=0
    )
    return arguments


def manager(address: str, tp_size: int, *, context: Any) -> Any:
    """Return a TokenizerManager that has what its sending methods use."""
    import zmq

    arguments = _configure(tp_size)
    cls = module("sglang.srt.managers.tokenizer_manager").TokenizerManager
    made = cls.__new__(cls)
    made.server_args = arguments
    made.tokenizer_ipc_name = None
    made.rid_to_state = {}
    made.encoder_dispatch_ready = {}
    made.batch_tokenized_generate_req_type = module(
        "sglang.srt.managers.io_struct"
    ).BatchTokenizedGenerateReqInput
    made.send_to_scheduler = context.socket(zmq.PUSH)
    made.send_to_scheduler.bind(address)
    transports = module("sglang.srt.utils.cuda_vmm_transport_utils")
    made.cuda_vmm_feature_transport = transports.CudaVmmFeatureTransport(arguments, None)
    embeds = module("sglang.srt.managers.positional_embeds_transport")
    made.positional_embeds_transport = embeds.PositionalEmbedsTransport(0, None)
    return made


def request(rid: str, items: list[Any], **fields: Any) -> Any:
    """Return a TokenizedGenerateReqInput with these media."""
    structs = module("sglang.srt.managers.io_struct")
    schedule = module("sglang.srt.managers.schedule_batch")
    stats = module("sglang.srt.observability.req_time_stats")
    return structs.TokenizedGenerateReqInput(
        rid=rid,
        input_text="",
        input_ids=None,
        input_embeds=None,
        mm_inputs=schedule.MultimodalProcessorOutput(mm_items=items, **fields),
        token_type_ids=None,
        sampling_params=module("sglang.srt.sampling.sampling_params").SamplingParams(),
        return_logprob=False,
        logprob_start_len=0,
        top_logprobs_num=0,
        token_ids_logprob=None,
        stream=False,
        time_stats=stats.APIServerReqTimeStats(),
    )


def send(sender: Any, tokenized: Any) -> None:
    asyncio.run(sender._send_one_request(tokenized))


def send_batch(sender: Any, tokenized: list[Any]) -> None:
    asyncio.run(sender._send_batch_request(tokenized))


def send_control(sender: Any, rid: str) -> None:
    sender._dispatch_to_scheduler(module("sglang.srt.managers.io_struct").AbortReq(rid=rid))


def scheduler(rank: int, tp_size: int, *, sockets: tuple[Any, Any], group: Any) -> Any:
    """Return a Scheduler that has what receiving and preparing media uses."""
    arguments = _configure(tp_size, rank)
    parallel = module("sglang.srt.runtime_context").get_parallel()
    parallel.override_permanently(tp_group=group)
    receiver = module("sglang.srt.managers.scheduler_components.request_receiver")
    cls = module("sglang.srt.managers.scheduler").Scheduler
    made = cls.__new__(cls)
    made.server_args = arguments
    made.model_config = types.SimpleNamespace(
        is_multimodal=True, requires_mm_token_modalities=False
    )
    made.request_receiver = receiver.SchedulerRequestReceiver(
        recv_from_tokenizer=sockets[0],
        recv_from_rpc=sockets[1],
        recv_skipper=None,
        input_blocker=None,
        mm_receiver=None,
        server_args=arguments,
        model_config=made.model_config,
        max_recv_per_poll=-1,
        stream_output=lambda *_a, **_k: None,
        get_last_batch=lambda: None,
    )
    return made


def receive(receiver: Any) -> list[Any]:
    return receiver.request_receiver.recv_requests()


def media(receiver: Any, received: Any) -> Any:
    """Return the MultimodalInputs of a received request, as handle_generate_request gets them."""
    return receiver._get_multimodal_inputs(received.mm_inputs)
