"""Every scenario: what it needs, what runs it, and the metric that judges it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from benchmarks.baselines.catalogue import METHODS
from mmformat.errors import ModelError

__all__ = ["ELSEWHERE", "SCENARIOS", "Follow", "Run", "Scenario", "scenario"]

Follow: TypeAlias = Callable[[str, float], None]
"""Told what is being done, and how much of it, 0 to 1, is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Say what a scenario is to measure; each scenario's function takes one.

    Parameters
    ----------
    payloads, methods : sequence of str
        Their names.
    rounds : int, optional
        How often the methods take turns; what suits the scenario and the payload when omitted.
    quick : bool
        Few rounds, or small sizes, to see that it works.
    follow : callable, optional
        Called with what is being done.
    """

    payloads: Sequence[str] = ()
    methods: Sequence[str] = ()
    rounds: int | None = None
    quick: bool = False
    follow: Follow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Describe one scenario without importing what runs it.

    Parameters
    ----------
    name, caption, about : str
        For the command line, for its help, and for the report.
    runs : str
        ``"module:function"``; called with a :class:`Run` and the scenario's own options.
    metric : str
        What the methods are compared by; less is better.
    columns : tuple of (str, str)
        Metrics of the table and their titles, ``metric`` among them.
    ours : str
        The method that stands for this library where one is named.
    controls : tuple of str
        Arms that are no rivals: what the bytes themselves cost.
    payloads, methods : tuple of str
        What can be chosen.
    quick_payloads, quick_methods : tuple of str
        What ``--quick`` runs of them; all when empty.
    modules : tuple of (str, str)
        What must be installed, and the extra that brings it.
    """

    name: str
    caption: str
    about: str
    runs: str
    metric: str
    columns: tuple[tuple[str, str], ...]
    ours: str
    controls: tuple[str, ...]
    payloads: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    quick_payloads: tuple[str, ...] = ()
    quick_methods: tuple[str, ...] = ()
    modules: tuple[tuple[str, str], ...] = field(default=(("torch", "torch"), ("zmq", "zmq")))

    def function(self) -> Callable[..., Any]:
        """Import and return what runs it."""
        module, _, name = self.runs.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found

    def run(
        self,
        *,
        payloads: Sequence[str] | None = None,
        methods: Sequence[str] | None = None,
        rounds: int | None = None,
        quick: bool = False,
        follow: Follow | None = None,
        **options: Any,
    ) -> Any:
        """Run it with the parameters of :class:`Run`; all payloads and methods when omitted."""
        run = Run(
            payloads=self.payloads if payloads is None else payloads,
            methods=self.methods if methods is None else methods,
            rounds=rounds,
            quick=quick,
            follow=follow,
        )
        return self.function()(run, **options)

    def is_ours(self, method: str) -> bool:
        """Return whether a method is a way of this library."""
        return method == self.ours or method.startswith("mmformat")


_METHODS: Final = tuple(name for name in METHODS if not name.startswith("mmformat"))
"""The rivals and the controls: what is in the catalogue and not ours."""

_TORCH_MEDIA: Final = (("torch", "torch"), ("PIL", "media"))

SCENARIOS: Final = {
    each.name: each
    for each in (
        Scenario(
            name="fanout",
            caption="one producer, N rank processes",
            about="from the producer's call until the last rank process holds torch tensors "
            "(*last returned*) and has read a byte of every page (*last touched*). *PSS held* is "
            "what the producer and all readers together hold more than before, each shared page "
            "counted once; it contains the payload itself and, for ours, the whole arena",
            runs="benchmarks.fanout:run_fanout",
            metric="touched_ns",
            columns=(
                ("encode_ns", "encoded"),
                ("sent_ns", "sent"),
                ("returned_ns", "last returned"),
                ("touched_ns", "last touched"),
                ("wire_nbytes", "message"),
                ("pss_nbytes", "PSS held"),
            ),
            ours="mmformat-arena",
            controls=("memcpy", "touch"),
            payloads=("image-small", "image", "photo", "images-8", "video"),
            methods=(
                "mmformat-arena",
                "mmformat-arena-again",
                "mmformat-arena-dictionary",
                "mmformat-arena-codes",
                "mmformat",
                *_METHODS,
            ),
            quick_payloads=("image-small", "image"),
            quick_methods=(
                "mmformat-arena",
                "pickle5",
                "msgspec-oob",
                "segment-per-tensor",
                "memcpy",
            ),
        ),
        Scenario(
            name="put",
            caption="put into the arena beside one memcpy of the same bytes",
            about="`Arena.put` beside one copy of the same bytes into the same pages, touched "
            "beforehand",
            runs="benchmarks.put:run_put",
            metric="put_ns",
            columns=(("put_ns", "put"), ("rate_bytes/ns", "GB/s"), ("faults_count", "page faults")),
            ours="arena-put",
            controls=("memcpy", "memcpy-slice"),
            payloads=("image-small", "image", "images-8", "video"),
            methods=("arena-put", "memcpy", "memcpy-slice"),
            quick_payloads=("image-small", "image"),
        ),
        Scenario(
            name="codec",
            caption="encode and decode in one process",
            about="encode and decode in one process. *all* is encode, decode, and one byte of "
            "every page read. Small payloads run several times in a turn; *cold* is the first of "
            "these, after the other methods' work",
            runs="benchmarks.codec:run_codec",
            metric="touched_ns",
            columns=(
                ("encode_ns", "encode"),
                ("decode_ns", "decode"),
                ("round_trip_ns", "encode + decode"),
                ("cold_round_trip_ns", "encode + decode, cold"),
                ("touch_ns", "touch pages"),
                ("touched_ns", "all"),
                ("cold_touched_ns", "all, cold"),
                ("wire_nbytes", "message"),
                ("faults_count", "page faults"),
            ),
            ours="mmformat",
            controls=("memcpy", "touch"),
            payloads=("image-small", "image", "photo", "images-8", "video"),
            methods=(
                "mmformat",
                "mmformat-arena",
                "mmformat-lz4",
                "mmformat-dictionary",
                "mmformat-codes",
                *_METHODS,
            ),
            quick_payloads=("image-small", "image"),
        ),
        Scenario(
            name="materialize",
            caption="photographs to tensors, beside transformers' processors; the pool's workers",
            about="from a JPEG's bytes or a decoded image to features, in CPU time and on the "
            "clock, beside transformers' processors of both backends and beside decoding the JPEG "
            "alone; and 32 photographs through the pool with one worker and with two. Every result "
            "is compared bit for bit",
            runs="benchmarks.materialize:run_materialize",
            metric="cpu_ns",
            columns=(
                ("cpu_ns", "CPU"),
                ("materialized_ns", "on the clock"),
                ("wire_nbytes", "features"),
            ),
            ours="mmformat-dictionary",
            controls=("pil-decode",),
            payloads=(
                "qwen2-vl-0.25mp",
                "qwen2-vl-1mp",
                "qwen2-vl-4mp",
                "clip-1mp",
                "llava-next-1mp",
                "qwen2-vl-1024",
                "qwen2-vl-4k",
                "clip-1024",
                "clip-4k",
                "photos-32",
            ),
            methods=(
                "mmformat-dictionary",
                "mmformat-plain",
                "mmformat-dictionary-pil",
                "mmformat-plain-pil",
                "transformers-torchvision",
                "transformers-pil",
                "pil-decode",
                "in-line",
                "mmformat-thread-1",
                "mmformat-thread-2",
                "mmformat-process-1",
                "mmformat-process-2",
            ),
            quick_payloads=("qwen2-vl-1024",),
            modules=_TORCH_MEDIA,
        ),
        Scenario(
            name="detect",
            caption="finding a dictionary in a finished tensor, beside a memcpy of it",
            about="finding the dictionary behind a tensor that somebody else made, and turning "
            "embeddings away, beside one copy of the same bytes",
            runs="benchmarks.detect:run_detect",
            metric="find_ns",
            columns=(("find_ns", "find"), ("rate_bytes/ns", "GB/s")),
            ours="mmformat",
            controls=("memcpy",),
            payloads=(
                "pixels-float32",
                "pixels-bfloat16",
                "pixels-float16",
                "embeddings-float32",
                "embeddings-bfloat16",
                "embeddings-float16",
            ),
            methods=("mmformat", "mmformat-hinted", "memcpy"),
            quick_payloads=("pixels-float32", "embeddings-bfloat16"),
            modules=_TORCH_MEDIA,
        ),
        Scenario(
            name="compression",
            caption="LZ4 and Zstandard beside Arrow's, lz4.frame, Blosc2 and plain bytes",
            about="one tensor compressed and decompressed; [compression.md](compression.md) has "
            "the links on which it pays",
            runs="benchmarks.compression:run_compression",
            metric="round_trip_ns",
            columns=(
                ("encode_ns", "encode"),
                ("decode_ns", "decode"),
                ("round_trip_ns", "both"),
                ("encode_bytes/ns", "encode, GB/s"),
                ("decode_bytes/ns", "decode, GB/s"),
                ("ratio_count", "ratio"),
                ("wire_nbytes", "message"),
            ),
            ours="mmformat-lz4",
            controls=("memcpy",),
            payloads=(
                "photo-float32",
                "photo-bfloat16",
                "photo-uint8",
                "clip-float32",
                "gaussian-float32",
                "gaussian-bfloat16",
            ),
            methods=(
                "mmformat-lz4",
                "mmformat-zstd",
                "arrow-lz4",
                "arrow-zstd",
                "lz4-frame",
                "blosc2",
                "memcpy",
            ),
            quick_payloads=("photo-float32",),
            modules=_TORCH_MEDIA,
        ),
        Scenario(
            name="legacy",
            caption="old pickles: convert, in this process and isolated, beside pickle.loads",
            about="old pickles converted without executing anything, in this process and in the "
            "sandbox, beside `pickle.loads`, which executes whatever the file says. The old "
            "engines' classes are stand-ins for it; the files are those of the tests, where they "
            "are, and one made with 25.8 MB",
            runs="benchmarks.legacy:run_legacy",
            metric="loaded_ns",
            columns=(("loaded_ns", "loaded"), ("wire_nbytes", "file")),
            ours="mmformat-isolated",
            controls=("read",),
            methods=("mmformat-isolated", "mmformat-in-process", "pickle-loads", "read"),
            modules=(("torch", "torch"),),
        ),
        Scenario(
            name="growth",
            caption="how cost grows: bytes, ranks, requests so far, items; where it begins to pay",
            about="how the cost of a put grows with the payload, the ranks that are attached, the "
            "requests so far and the items of a request; and the fan-out by size and ranks beside "
            "pickle 5 out-of-band, for the size from which shared memory pays",
            runs="benchmarks.growth:run_growth",
            metric="cost_ns",
            columns=(("cost_ns", "cost"), ("get_ns", "get")),
            ours="mmformat-arena",
            controls=("memcpy",),
            payloads=("bytes", "ranks", "requests", "items", "knee"),
            methods=("mmformat-arena", "pickle5", "pickle5-oob", "memcpy"),
        ),
        Scenario(
            name="counts",
            caption="what each operation does: bytes copied, memory, calls, instructions",
            about="what each operation does, in numbers that are the same at each run: CI compares "
            "them with a committed baseline, and never looks at a clock. *Fresh pages* are page "
            "faults in bytes, where every large allocation is new memory: a copy shows there",
            runs="benchmarks.counts:run_counts",
            metric="",
            columns=(
                ("calls_count", "calls"),
                ("bytecodes_count", "bytecodes"),
                ("allocated_nbytes", "Python's and numpy's memory"),
                ("torch_copied_nbytes", "copied by torch"),
                ("arrow_allocated_nbytes", "Arrow's memory"),
                ("faulted_nbytes", "fresh pages"),
                ("instructions_count", "instructions"),
                ("modules_count", "modules imported"),
            ),
            ours="",
            controls=(),
            payloads=("image", "16x256KiB"),
            methods=(
                "encode",
                "decode",
                "put",
                "reserve",
                "get",
                "get-device",
                "import",
                "first-put",
                "first-get",
            ),
            modules=(("torch", "torch"),),
        ),
    )
}
"""By name, in the order of the report."""

ELSEWHERE: Final = {
    each.name: each
    for each in (
        Scenario(
            name="strategies",
            caption="a server's whole way: who decodes, and how the ranks get it",
            about="a tokenizer with its pool and ranks with a scheduler's loop, in real processes. "
            "The picture shows how long each of ten requests sent at once takes until every rank "
            "has it",
            runs="benchmarks.strategies:run_strategies",
            metric="concurrent_ms",
            columns=(
                ("materializations_count", "materialized"),
                ("cpu_ms", "CPU"),
                ("latency_ms", "latency"),
                ("throughput_per_s", "requests/s"),
                ("concurrent_ms", "ready, of all at once"),
                ("blocked_longest_ms", "blocked, longest"),
                ("blocked_total_ms", "blocked, in all"),
                ("moved_nbytes", "moved"),
                ("peak_pss_nbytes", "peak PSS"),
            ),
            ours="mmformat",
            controls=(),
        ),
        Scenario(
            name="placement",
            caption="the way to the GPU, beside a plain pinned copy; needs a CUDA device",
            about="from a handle to tensors on the GPU, complete, beside one plain copy from "
            "pinned memory; [cuda.md](cuda.md) says what the ways are",
            runs="benchmarks.placement:run_one_device",
            metric="",
            columns=(),
            ours="",
            controls=(),
        ),
    )
}
"""Scenarios whose commands and results have shapes of their own; the report shows them too."""


def scenario(name: str) -> Scenario:
    """Return the scenario of a name.

    Raises
    ------
    ModelError
        When there is none.
    """
    try:
        return SCENARIOS[name] if name in SCENARIOS else ELSEWHERE[name]
    except KeyError:
        known = ", ".join((*SCENARIOS, *ELSEWHERE))
        raise ModelError(f"expected a scenario of {known}, got {name!r}") from None
