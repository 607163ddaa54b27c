"""llama.cpp's own placement, and the llama-server arguments that ask for it.

The rules are those of llama_model_base::load_tensors (src/llama-model.cpp, commit 0c1e570): the last layers first, the
output counted before them; the input always on the host; a tied embedding a second time where the output is. What a
llama-server with these arguments would do is what these functions say. Sizes are in bytes.
"""

from collections.abc import Sequence

import numpy as np

from app.placement.context import ContextRequest
from app.placement.layout import Layout
from app.placement.overrides import Override
from app.placement.slabs import HOST


def place(n_layer: int, n_gpu_layers: int, devices: Sequence[str], weights: Sequence[float]) -> Layout:
    """Give each of `n_layer` blocks, and the output, a device.

    Of the `n_gpu_layers` last units, the output being the last of all, each device gets a run by its weight; the sums
    are 32-bit floats as in llama.cpp, since its rounding decides who gets the layer at a border. More units than there
    are is all of them. `weights` are one per device, and not all 0 unless there are no devices.
    """
    units = min(n_gpu_layers, n_layer + 1) if devices else 0
    places = [HOST] * (n_layer + 1 - units)
    if units:
        # By a power of two, which changes no rounding, so that 32 bits can hold the largest weight, whatever it is.
        scaled = np.ldexp(np.asarray(weights, np.float64), -np.frexp(max(weights))[1])
        ends = np.cumsum(scaled.astype(np.float32), dtype=np.float32)
        starts = np.arange(units, dtype=np.float32) / np.float32(units)
        indices = np.searchsorted(ends / ends[-1], starts, side="right")
        places += [devices[index] for index in indices]
    return Layout(tuple(devices), tuple(places[:-1]), places[-1])


def server_arguments(
    layout: Layout, overrides: Sequence[Override] = (), n_cpu_moe: int = 0, context: ContextRequest | None = None
) -> tuple[str, ...] | None:
    """The llama-server arguments that place and size a model like this; None where no arguments can.

    Counts of layers stand in for the split's weights: llama.cpp deals out exactly these. A pattern with a comma or an
    equals sign cannot be said, `-ot` being a list of assignments.
    """
    if any(mark in override.pattern for override in overrides for mark in ",="):
        return None
    units = [*layout.blocks, layout.output]
    counts = [units.count(device) for device in layout.devices]
    arguments = ["-ngl", str(sum(counts))]
    if layout.devices:
        arguments += ["-dev", ",".join(map(device_name, layout.devices))]
    if len(layout.devices) > 1 and any(counts):
        arguments += ["-ts", ",".join(map(str, counts))]
    for override in overrides:
        arguments += ["-ot", f"{override.pattern}={device_name(override.device)}"]
    if n_cpu_moe:
        arguments += ["-ncmoe", str(n_cpu_moe)]
    return (*arguments, *(_context_arguments(context) if context else ()))


def device_name(device: str) -> str:
    """The name that llama.cpp has for a device of ours; a simulated one stands for the CUDA device of its number."""
    kind, _, number = device.partition(":")
    return "CPU" if kind == HOST else f"CUDA{number}"


def _context_arguments(context: ContextRequest) -> list[str]:
    arguments = ["-c", str(context.n_ctx or 0), "-np", str(context.n_seq)]
    arguments += ["-kvu"] if context.kv_unified else []
    arguments += [] if context.kv_offload else ["-nkvo"]
    arguments += ["-ctk", context.cache_type_k, "-ctv", context.cache_type_v]
    arguments += ["-fa", "on" if context.flash_attention else "off"]
    return [*arguments, "-b", str(context.n_batch), "-ub", str(context.n_ubatch)]
