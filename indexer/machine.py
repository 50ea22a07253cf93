"""What this machine's processor is good at."""

from __future__ import annotations


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AMX, AVX512-BF16); others emulate it, slower than float32."""
    import torch  # seconds to import, so not before it is needed

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
