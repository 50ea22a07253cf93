"""Work beside the model thread, such as embedding a question: with one OpenMP thread, so that its own stay awake.

Every thread that computes with torch or FAISS gets OpenMP threads of its own for good. Once all of a process are more
than the processors, libgomp has each sleep as soon as it has nothing to do, and a token is hundreds of products with
moments between them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from starlette.concurrency import run_in_threadpool
from threadpoolctl import ThreadpoolController

T = TypeVar("T")


async def run_beside_model(work: Callable[[], T]) -> T:
    """What `work` returns or raises, from a worker thread."""
    return await run_in_threadpool(_with_one_thread, work)


def run_and_forget_threads(work: Callable[[], T]) -> T:
    """What `work` returns or raises, from a thread that ends with it, as do the OpenMP threads it got."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _with_one_thread(work: Callable[[], T]) -> T:
    torch.get_num_threads()  # else torch sets the number itself, on its first product in this thread
    with _openmp().limit(limits=1, user_api="openmp"):
        return work()


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()
