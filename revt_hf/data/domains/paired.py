"""Domains of image and label files: the part that all of them share."""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
from pydantic import BaseModel, ConfigDict

from revt_hf.core.errors import UserError, counted
from revt_hf.data.domains.base import FEATURES, Domain, Opened, arrow_split, fingerprint
from revt_hf.data.domains.files import read_split_file
from revt_hf.data.domains.layouts import Finder, Layout, Match, Pair

_NANOSECONDS = 1_000_000_000
HIDDEN_TEST = {"test": "the labels of the test split are not public; use val"}


class PairedOptions(BaseModel):
    """Options of every domain of files.

    ``layout`` takes only the official or only the converted layout (default: the first that is
    found, official ones first). ``split_files`` maps a split to a text file (relative to
    ``data_dir``) with one name, stem or path a line; a split of the dataset is narrowed down to
    it, any other name makes a split out of all of them. ``labels_follow_exif`` says what a label
    without an orientation is worth beside an image that EXIF turns: true, it was drawn on the image
    as it is stored and is turned too; false, on the image as it is displayed. Without it, such
    labels are warned of, and stay as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Literal["official", "converted"] | None = None
    split_files: dict[str, str] = {}
    labels_follow_exif: bool | None = None


class PairsBuilder(datasets.GeneratorBasedBuilder):
    """One split as a table of paths; the images stay where they are."""

    BUILDER_CONFIG_CLASS = datasets.BuilderConfig

    def __init__(self, rows: list[tuple[str, str, str]], split: str, **kwargs: Any) -> None:
        self._rows = rows
        self._split = split
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        # A list is what datasets shares out between processes.
        return [datasets.SplitGenerator(arrow_split(self._split), {"rows": self._rows})]

    def _generate_examples(
        self, rows: list[tuple[str, str, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image, label in rows:
            yield name, {"image": image, "label": label, "name": name}


class PairedDomain(Domain):
    """A domain whose images and labels are files."""

    options_model = PairedOptions
    # Splits with labels, and those that lie in another split's folder.
    split_names: ClassVar[tuple[str, ...]]
    inside: ClassVar[Mapping[str, str]] = {}
    # Splits that exist without labels, and why.
    unlabelled: ClassVar[Mapping[str, str]] = {}
    # Folders that the archive may have unpacked to.
    wrappers: ClassVar[tuple[str, ...]] = ("",)
    # Images known to be defective, by name; left out unless include_defective.
    defects: ClassVar[Mapping[str, str]] = {}
    fit_labels: ClassVar[bool] = False
    # Whether a split is whatever folder is there.
    any_split: ClassVar[bool] = False

    @abstractmethod
    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        """The layouts to look for, the preferred ones first."""

    def chosen(
        self, split: str, match: Match, data_dir: Path, options: Any
    ) -> Collection[str] | None:
        """The names of a split among those of its folder; None takes all of them.

        Raises:
            UserError: what decides that is missing.
        """
        return None

    def own_splits(self, data_dir: Path | None, config: str | None, options: Any) -> Sequence[str]:
        """The splits of the dataset itself, not those that ``split_files`` add."""
        return self.split_names

    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        own = self.own_splits(data_dir, config, options)
        return tuple(dict.fromkeys([*own, *options.split_files]))

    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        root = self.existing(data_dir)
        splits = self.splits(root, config, options)
        if split in self.unlabelled and split not in splits:
            raise UserError(f"{self.name}: {self.unlabelled[split]}")
        if split not in splits and not self.any_split:
            raise UserError(f"unknown split '{split}' of {self.name}: use {', '.join(splits)}")
        layouts = [
            layout
            for layout in self.layouts(config, options)
            if options.layout in (None, layout.kind)
        ]
        if not layouts:
            reason = f"it has no {options.layout} layout"
            raise UserError(f"split '{split}' of {self.name} is not in {root}: {reason}")
        own = self.own_splits(root, config, options)
        finder = Finder(root, self.wrappers)
        if split in options.split_files and split not in own:
            match = self._everything(finder, layouts, own)
        else:
            match = finder.find(layouts, self.inside.get(split, split), self.name)
        names, missing = self._names(split, match, root, options)
        left_out = {} if getattr(options, "include_defective", True) else self._defective(names)
        pairs = [match.pairs[name] for name in names if name in match.pairs]
        pairs = [pair for pair in pairs if pair.name not in left_out]
        wanted = set(names) - set(left_out)
        missing += [problem for name, problem in match.unusable.items() if name in wanted]
        if not pairs and not missing:
            raise UserError(f"split '{split}' of {self.name} has no images in {match.root}")
        rows = [(pair.name, pair.image.path, pair.label.path) for pair in pairs]
        files = [file for pair in pairs for file in (pair.image, pair.label)]
        expected = None
        if split not in options.split_files and match.layout.counted:
            expected = self.expected(split, config, options)
        return Opened(
            builder=partial(
                PairsBuilder,
                rows,
                split,
                dataset_name=self.name,
                hash=fingerprint([split, *names, *files]),
            ),
            table=match.layout.table,
            layout=match.layout.kind,
            found=(
                f"{match.layout.kind} layout in {match.root}: {match.layout.described(split)}, "
                f"{counted(len(pairs), 'image')}, labels read as '{match.layout.table.name}'"
            ),
            images=len(pairs),
            content=fingerprint([split, *(_content(pair) for pair in pairs)]),
            expected=None if expected is None else expected - len(left_out),
            missing=tuple(missing),
            broken=tuple(match.broken.items()),
            unused=tuple(match.unused.items()),
            left_out=left_out,
            follow_exif=options.labels_follow_exif,
            fit_labels=self.fit_labels,
        )

    def _everything(
        self, finder: Finder, layouts: Sequence[Layout], splits: Sequence[str]
    ) -> Match:
        """All splits that are there, in one layout: what a split of the user's own is out of."""
        parts: list[Match] = []
        problem: UserError | None = None
        for part in dict.fromkeys(self.inside.get(name, name) for name in splits):
            try:
                parts.append(finder.find([parts[0].layout] if parts else layouts, part, self.name))
            except UserError as error:
                problem = problem or error
        if not parts:
            raise problem or UserError(f"{self.name} has no splits to take images from")
        whole = Match(parts[0].layout, parts[0].root)
        for match in parts:
            whole.add(match)
        return whole

    def _names(
        self, split: str, match: Match, root: Path, options: Any
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """The split's names in order, and what is listed but not there."""
        everything = sorted({*match.pairs, *match.unusable})
        if split in options.split_files:
            path = root / options.split_files[split]
            listed, unknown = read_split_file(path, everything, match.layout.image_suffixes)
            return sorted(listed), [
                (str(path), f"{path} lists '{entry}', an image that does not exist")
                for entry in unknown
            ]
        chosen = self.chosen(split, match, root, options)
        return everything if chosen is None else [n for n in everything if n in chosen], []

    def _defective(self, names: Collection[str]) -> dict[str, str]:
        return {name: self.defects[name] for name in names if name in self.defects}


def _content(pair: Pair) -> list[Any]:
    """What changes when an image or label does; not where it lies, so that data can move."""
    files = (pair.image, pair.label)
    # In seconds: archives and copies do not keep more.
    return [pair.name, *((file.size, file.modified_ns // _NANOSECONDS) for file in files)]
