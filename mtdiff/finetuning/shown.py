"""What `mtdiff finetune` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from mtdiff.terminal import console


def print_finetuned(document: dict[str, Any]) -> None:
    """Print what every copy cost and how its last episodes went, and what to do next."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", style="bold", no_wrap=True)
    for column in ("steps", "updates", "minutes", "last 100 episodes"):
        table.add_column(column, justify="right")
    for task, done in document["tasks"].items():
        minutes = f"{done['seconds'] / 60:.1f}{' (before)' if done['reused'] else ''}"
        table.add_row(
            task, f"{done['environment_steps']:,}", f"{done['updates']:,}", minutes, f"{done['success']:.2f} succeeded"
        )
    out = console()
    out.print(table)
    out.print(Text.assemble("run       ", (document["run"], "bold")), soft_wrap=True)
    out.print(Text.assemble("next      ", (f"mtdiff evaluate {document['run']}", "cyan")), soft_wrap=True)
