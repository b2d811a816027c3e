"""ACDC (Sakaridis et al., ICCV 2021): the same Swiss roads in fog, at night, in rain and snow."""

from collections.abc import Sequence
from typing import Any

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import HIDDEN_TEST, PairedDomain
from revt_hf.data.labels import label_table

CONDITIONS = ("fog", "night", "rain", "snow")
_ALL = "all"
_VAL = {"fog": 100, "night": 106, "rain": 100, "snow": 100}
_TRAIN = 400


class AcdcDomain(PairedDomain):
    """See the module; configs ``all`` and one a condition, splits ``train`` and ``val``.

    (Not the cardiac dataset of the same name.)
    """

    name = "acdc"
    facts = Facts(
        kind="real",
        license="ACDC license: non-commercial research",
        download="the ACDC site of ETH Zurich (registration): rgb_anon and gt archives",
        sharing=Sharing("no", "its license is for its users' own non-commercial research"),
        images={"train": _TRAIN * len(CONDITIONS), "val": sum(_VAL.values())},
    )
    configs = (_ALL, *CONDITIONS)
    split_names = ("train", "val")
    unlabelled = HIDDEN_TEST
    wrappers = ("", "acdc")

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        if config in CONDITIONS:
            return {"train": _TRAIN, "val": _VAL[config]}.get(split)
        return super().expected(split, config, options)

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        parts = CONDITIONS if config == _ALL else (str(config),)
        ids, train_ids = label_table("cityscapes_ids"), label_table("train_ids")
        image = "_rgb_anon.png"
        own = ("rgb_anon/{part}/{split}", "gt/{part}/{split}", image)
        turned = ("rgb_anon/{split}/{part}", "gt/{split}/{part}", image)
        flat = ("rgb_anon/{split}", "gt/{split}", image)
        layouts = [
            Layout("official", *own, "_gt_labelTrainIds.png", train_ids, parts=parts),
            Layout("official", *own, "_gt_labelIds.png", ids, parts=parts),
            Layout("converted", *turned, "_gt_labelTrainIds.png", train_ids, parts=parts),
        ]
        if config == _ALL:  # a flat folder does not tell the conditions apart
            layouts.append(Layout("converted", *flat, "_gt_labelTrainIds.png", train_ids))
        return layouts
