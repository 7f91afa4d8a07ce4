"""The table of docs/trust.md: what was tried, how it ends, and why."""

from __future__ import annotations

from tests.redteam.attacks import ATTACKS, Attack

BEGIN, END = "<!-- attacks -->", "<!-- end of attacks -->"


def rows() -> list[str]:
    """The table in Markdown, one line after the other."""
    head = ["| A submission that | ends | because | needs the sandbox |", "| --- | --- | --- | --- |"]
    return head + [
        f"| {attack.what} | {_end(attack)} | {attack.answer} | {'yes' if attack.walls else ''} |" for attack in ATTACKS
    ]


def _end(attack: Attack) -> str:
    return f"`{attack.status}`" if attack.status != "finished" else "as an honest one"
