from dataclasses import dataclass

import torch.distributed as dist


@dataclass(frozen=True)
class GroupConfig:
    num_trainers_per_group: int = -1

    def check(self) -> None:
        if not 1 <= self.num_trainers_per_group <= dist.get_world_size():
            raise ValueError(f"a group of {self.num_trainers_per_group} in a world of {dist.get_world_size()}")
