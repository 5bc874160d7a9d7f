"""The flavors of hardware, with prices as they were in August 2026; the real list is asked for live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FLAVORS", "Flavor"]


@dataclass(frozen=True, slots=True)
class Flavor:
    """One kind of machine.

    Args:
        model: of its accelerators; empty where it has none.
        vram: of all of them together, in GB.
        price: in US dollars an hour.
    """

    name: str
    pretty: str
    cores: int
    memory: int
    disk: int
    model: str
    count: int
    vram: int
    price: float

    @property
    def accelerator(self) -> str:
        """What ACCELERATOR says inside a job."""
        return self.name if self.model else ""

    def answer(self, *, has_disk: bool = True) -> dict[str, Any]:
        """As the API lists it. Prices are by the minute."""
        micro = round(self.price * 1_000_000 / 60)
        accelerator = None
        if self.model:
            accelerator = {
                "type": "gpu",
                "model": self.model,
                "quantity": str(self.count),
                "vram": f"{self.vram} GB",
                "manufacturer": "Nvidia",
            }
        answer: dict[str, Any] = {
            "name": self.name,
            "prettyName": self.pretty,
            "cpu": f"{self.cores} vCPU",
            "ram": f"{self.memory} GB",
            "accelerator": accelerator,
            "unitCostMicroUSD": micro,
            "unitCostUSD": micro / 1_000_000,
            "unitLabel": "minute",
        }
        if has_disk:
            answer["ephemeralStorage"] = f"{self.disk} GB"
        return answer


_ALL = (
    Flavor("cpu-basic", "CPU Basic", 2, 16, 50, "", 0, 0, 0.01),
    Flavor("cpu-upgrade", "CPU Upgrade", 8, 32, 50, "", 0, 0, 0.03),
    Flavor("cpu-performance", "CPU Performance", 32, 256, 1024, "", 0, 0, 1.90),
    Flavor("cpu-xl", "CPU XL", 16, 124, 1000, "", 0, 0, 1.00),
    Flavor("t4-small", "Nvidia T4 - small", 4, 15, 50, "T4", 1, 16, 0.40),
    Flavor("t4-medium", "Nvidia T4 - medium", 8, 30, 100, "T4", 1, 16, 0.60),
    Flavor("a10g-small", "Nvidia A10G - small", 4, 15, 110, "A10G", 1, 24, 1.00),
    Flavor("a10g-large", "Nvidia A10G - large", 12, 46, 200, "A10G", 1, 24, 1.50),
    Flavor("a10g-largex2", "2x Nvidia A10G - large", 24, 92, 1000, "A10G", 2, 48, 3.00),
    Flavor("a10g-largex4", "4x Nvidia A10G - large", 48, 184, 2000, "A10G", 4, 96, 5.00),
    Flavor("a100-large", "Nvidia A100 - large", 12, 142, 1000, "A100", 1, 80, 2.50),
    Flavor("a100x4", "4x Nvidia A100", 48, 568, 4000, "A100", 4, 320, 10.00),
    Flavor("a100x8", "8x Nvidia A100", 96, 1136, 8000, "A100", 8, 640, 20.00),
    Flavor("h200", "Nvidia H200", 23, 256, 3000, "H200", 1, 141, 5.00),
    Flavor("h200x2", "Nvidia H200", 46, 512, 6000, "H200", 2, 282, 10.00),
    Flavor("h200x4", "Nvidia H200", 92, 1024, 12000, "H200", 4, 564, 20.00),
    Flavor("h200x8", "Nvidia H200", 184, 2048, 24000, "H200", 8, 1128, 40.00),
    Flavor("rtx-pro-6000", "Nvidia RTX PRO 6000", 23, 256, 475, "RTX PRO 6000", 1, 96, 2.75),
    Flavor("rtx-pro-6000x2", "Nvidia RTX PRO 6000", 46, 512, 950, "RTX PRO 6000", 2, 192, 5.50),
    Flavor("rtx-pro-6000x4", "Nvidia RTX PRO 6000", 92, 1024, 1900, "RTX PRO 6000", 4, 384, 11.00),
    Flavor("rtx-pro-6000x8", "Nvidia RTX PRO 6000", 184, 2048, 3800, "RTX PRO 6000", 8, 768, 22.00),
    Flavor("l4x1", "1x Nvidia L4", 8, 30, 400, "L4", 1, 24, 0.80),
    Flavor("l4x4", "4x Nvidia L4", 48, 186, 3200, "L4", 4, 96, 3.80),
    Flavor("l40sx1", "1x Nvidia L40S", 8, 62, 380, "L40S", 1, 48, 1.80),
    Flavor("l40sx4", "4x Nvidia L40S", 48, 382, 3200, "L40S", 4, 192, 8.30),
    Flavor("l40sx8", "8x Nvidia L40S", 192, 1534, 6500, "L40S", 8, 384, 23.50),
)

FLAVORS = {flavor.name: flavor for flavor in _ALL}
"""By name, in the order that the API lists them. Source: huggingface_hub, docs/source/en/guides/jobs.md."""
