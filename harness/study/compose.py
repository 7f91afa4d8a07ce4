"""From what Hydra composes to the frozen dataclasses of one study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.api import ConfigError
from harness.config import (
    HardwareConfig,
    PruningConfig,
    RulesetConfig,
    StudyConfig,
    TrackingConfig,
    WorkloadConfig,
    build,
    load,
    names_in,
)


def study_config(composed: Any, *, submission: str, results: Path | None) -> StudyConfig:
    """Hydra's composed configuration as frozen dataclasses. Raises ConfigError.

    Paths do not come through Hydra, to which `,`, `=` and `${x}` in them mean something. `results`: None where the
    command line names no folder.
    """
    from omegaconf import OmegaConf

    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    name = values["workload"]["name"]
    where = "conf/bench.yaml and the command line"
    return build(
        StudyConfig,
        {
            "workload": build(WorkloadConfig, values["workload"], f"conf/workload/{name}.yaml and the command line"),
            "ruleset": _unchanged(build(RulesetConfig, values["ruleset"], "conf/ruleset and the command line")),
            "hardware": build(HardwareConfig, values["hardware"], "conf/hardware and the command line"),
            "tracking": build(TrackingConfig, values["tracking"], "conf/tracking and the command line"),
            "pruning": build(PruningConfig, values["pruning"], where),
            **{key: values[key] for key in ("study", "seed", "hp", "evaluate_every_steps", "keep_weights")},
            "submission": submission,
            "results": (results or Path(values["results"])).resolve(),
        },
        where,
    )


def _unchanged(ruleset: RulesetConfig) -> RulesetConfig:
    """The ruleset. Raises ConfigError where it has the name of a file and another content: a name means one thing."""
    if ruleset.name in names_in("ruleset") and ruleset != load("ruleset", ruleset.name, RulesetConfig):
        raise ConfigError(
            f"the ruleset {ruleset.name} was changed on the command line. Give it a name of its own: ruleset.name=mine."
        )
    return ruleset


def quoted(value: str) -> str:
    """`value` as one word of Hydra's grammar."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
