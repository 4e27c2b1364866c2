"""Groups as an indexed data set of PyTorch's."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from prefpipe.training.groups import NO_GROUP, Group


class GroupDataset(Dataset[Group | None]):
    """Groups as an indexed data set for the trainer."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Group | None:
        return None if index == NO_GROUP else self.groups[index]
