"""Photograph requests over HTTP, the same for every engine, and the comparison of two servers."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

PHOTOS = Path(__file__).parents[2] / "benchmarks" / "photos"
NAMES = sorted(path.name for path in PHOTOS.iterdir() if path.suffix in (".png", ".jpg"))
SETS: list[list[str]] = [
    *([name] for name in NAMES),
    NAMES[:2],
    NAMES[2:5],
    NAMES[4:8],
    [NAMES[0], NAMES[0]],
    NAMES[::3],
    [NAMES[1]],
    NAMES[:4],
]
QUESTIONS = ("Describe the picture in one sentence.", "What is in these images? Compare them.")
PROMPT = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def data_url(name: str) -> str:
    """Return a photograph as the URL that a chat request carries."""
    kind = "png" if name.endswith("png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode((PHOTOS / name).read_bytes()).decode()}"


def body(names: Sequence[str], number: int = 0, **options: Any) -> dict[str, Any]:
    """Return a chat request for photographs, deterministic and of a fixed length."""
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url(name)}} for name in names
    ]
    content.append({"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]})
    return {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 16,
        "logprobs": True,
        "top_logprobs": 1,
        "seed": 0,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": content}],
        **options,
    }


def client(port: int) -> httpx.AsyncClient:
    """Return a client of a server on this machine."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120)


async def answers(port: int, *, concurrent: int = 1) -> list[dict[str, Any]]:
    """Send every request set and return status, tokens and logprobs of each, in order."""
    gate = asyncio.Semaphore(concurrent)

    async def one(http: httpx.AsyncClient, number: int, names: list[str]) -> dict[str, Any]:
        async with gate:
            reply = await http.post("/v1/chat/completions", json=body(names, number))
        if reply.status_code != 200:
            return {"status": reply.status_code, "text": reply.text[:300]}
        content = reply.json()["choices"][0]["logprobs"]["content"]
        return {
            "status": 200,
            "tokens": [part["token"] for part in content],
            "logprobs": [part["logprob"] for part in content],
        }

    async with client(port) as http:
        return list(
            await asyncio.gather(*(one(http, number, names) for number, names in enumerate(SETS)))
        )


async def aborts(port: int, *, count: int, within_s: float) -> tuple[int, int, int]:
    """Send requests whose clients disconnect after a random time; count done, gone and failed."""
    chance = random.Random(3)

    async def one(number: int) -> str:
        await asyncio.sleep(chance.random() * within_s)
        tokens = chance.choice([1, 64, 256])
        request = body(SETS[number % len(SETS)], number, max_tokens=tokens)
        async with client(port) as http:
            try:
                reply = await asyncio.wait_for(
                    http.post("/v1/chat/completions", json=request), chance.random() * within_s
                )
            except TimeoutError:
                return "gone"
        return "done" if reply.status_code == 200 else "failed"

    ends = await asyncio.gather(*(one(number) for number in range(count)))
    return ends.count("done"), ends.count("gone"), ends.count("failed")


async def odd_requests(port: int) -> dict[str, Any]:
    """Send requests of other shapes and invalid ones; return status and texts by name."""
    sampling = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    picture = [data_url(name) for name in NAMES]

    def generate(text: Any, images: Any, **more: Any) -> dict[str, Any]:
        return {"text": text, "image_data": images, "sampling_params": {**sampling, **more}}

    async def chat(http: httpx.AsyncClient, names: list[str], **options: Any) -> Any:
        reply = await http.post("/v1/chat/completions", json=body(names, max_tokens=8, **options))
        texts = [part["message"]["content"] for part in reply.json().get("choices", ())]
        return reply.status_code, texts

    async def post(http: httpx.AsyncClient, request: dict[str, Any]) -> Any:
        reply = await http.post("/generate", json=request)
        if reply.status_code != 200:
            return reply.status_code, ""
        made = reply.json()
        return 200, [part["text"] for part in (made if isinstance(made, list) else [made])]

    long = PROMPT.replace("Describe.", "Describe the picture. " * 3000)
    async with client(port) as http:
        return {
            "n=3": await chat(http, [NAMES[1]], n=3),
            "n=2, two images": await chat(http, [NAMES[1], NAMES[3]], n=2),
            "batch of 3": await post(
                http, generate([PROMPT] * 3, [[picture[1]], [picture[2]], [picture[3]]])
            ),
            "text only": await post(http, {"text": "You are", "sampling_params": sampling}),
            "too long": await post(http, generate(long, [picture[2]])),
            "undecodable": await post(http, generate(PROMPT, "data:image/png;base64,AAAA")),
            "bad parameter": await post(http, generate(PROMPT, [picture[2]], temperature=-1)),
            "afterwards": await chat(http, [NAMES[1]]),
        }
