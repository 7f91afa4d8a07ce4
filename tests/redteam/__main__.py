"""Runs every attack and prints how many got their end. Run by `make redteam`.

`sandbox=off` runs those that harm nothing without a sandbox, and names those that need one; `honest=SUITE` runs the
submissions of the repository instead, and counts false alarms; `table=1` prints the table of docs/trust.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from harness.race.confinement import namespaces


def main(arguments: list[str]) -> int:
    """Returns 1 where an attack got another end than its own."""
    without = "sandbox=off" in arguments
    if without:
        # Before torch is imported, which makes threads.
        namespaces.forbid()
    from tests.redteam import arena, honest
    from tests.redteam.attacks import ATTACKS
    from tests.redteam.table import rows

    for argument in arguments:
        if argument.startswith("honest="):
            return honest.main(argument.removeprefix("honest="))
    if "table=1" in arguments:
        print("\n".join(rows()))
        return 0
    ended, open_to, wrong = 0, [], []
    chosen = [attack for attack in ATTACKS if not (without and attack.harmful)]
    with arena.new_sandbox() as sandbox:
        for attack in chosen:
            with tempfile.TemporaryDirectory() as folder:
                end = arena.run(attack, sandbox, Path(folder).resolve())
            departure = end.departure(attack)
            if departure is None or (attack.busy and not end.gained and not end.had_the_processor):
                ended += 1
            elif without and attack.walls:
                open_to.append(attack.name)
            else:
                wrong.append(f"{attack.name}: {departure}")
            print(f"{'ok ' if departure is None else 'not'}  {attack.name}", flush=True)
        lacks = sandbox.missing
    print(f"{ended} of {len(chosen)} attacks got their end, sandbox {'off: ' + lacks if lacks else 'on'}")
    if without:
        print(
            f"need the sandbox, beside {len(ATTACKS) - len(chosen)} that are not run without it: {', '.join(open_to)}"
        )
    for line in wrong:
        print(f"wrong: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
