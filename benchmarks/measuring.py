"""How a training step on a GPU is measured, the same for every contestant.

A contestant is a function ``step(inputs)`` -> (loss a token, gradient norm), floats or tensors: one
forward, backward, clipping and optimizer step. Each step gets fresh random ids from the same seed.
"""

import json
import math
import statistics
import time

import numpy as np
import torch

from repotune.records import IGNORE, Row

GIB = 2**30


def random_row(rng, setting, vocab_size):
    """Random ids; with ``docs``, documents of such a mean length packed into each row."""
    batch, length, mean_document = setting.batch, setting.length, setting.docs
    ids = rng.integers(0, vocab_size, batch * length)
    labels = np.append(ids[1:], IGNORE)
    starts = []
    for row in range(batch):
        at = 0
        while at < length:
            starts.append(row * length + at)
            rest = length - at
            at += min(rest, max(16, int(rng.exponential(mean_document)))) if mean_document else rest
    labels[np.array(starts[1:], dtype=int) - 1] = IGNORE
    return Row(input_ids=ids, labels=labels, starts=np.array(starts))


def report(system, setting, measure, **facts):
    """Print ``measure()``, taken under the setting's cap on the allocator, as one JSON line."""
    torch.cuda.empty_cache()
    if setting.cap < math.inf:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(setting.cap * GIB / total)
    try:
        result = measure()
    except torch.OutOfMemoryError as error:
        result = {"out_of_memory": str(error)[:200]}
    torch.cuda.set_per_process_memory_fraction(1.0)
    print(json.dumps({"system": system, "setting": setting.text, **facts, **result}), flush=True)


def timed(step, inputs, *, warm, tokens):
    """Figures of ``step`` over an iterable of inputs; the first ``warm`` and the last do not count.

    Times lie between CUDA events at the beginning of each step; the median counts. ``reserved`` is
    the allocator's peak, ``device`` what the card shows then, with the context.
    """
    torch.cuda.reset_peak_memory_stats()
    losses, norms, events = [], [], []
    first = time.perf_counter()
    for index, one in enumerate(inputs):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        events.append(event)
        if index == warm:
            torch.cuda.synchronize()
            warm_seconds = time.perf_counter() - first
        loss, norm = step(one)
        losses.append(loss)
        norms.append(norm)
    torch.cuda.synchronize()
    pairs = list(zip(events[warm:], events[warm + 1 :], strict=False))
    milliseconds = [before.elapsed_time(after) for before, after in pairs]
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    reserved = torch.cuda.max_memory_reserved()
    return {
        "tokens_per_second": round(tokens / statistics.median(milliseconds) * 1e3, 1),
        "step_ms": [round(one, 2) for one in milliseconds],
        "reserved_gib": round(reserved / GIB, 3),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "device_gib": round((reserved + context) / GIB, 3),
        "warm_s": round(warm_seconds, 1),
        "losses": [round(float(one), 4) for one in losses],
        "grad_norms": [round(float(one), 4) for one in norms],
    }
