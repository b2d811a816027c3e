"""Domains whose images and labels are files: the part that all of them share."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError, counted
from revt_hf.data.domains.base import Domain, Files, Layout, Opened, RowsBuilder, fingerprint
from revt_hf.data.domains.files import Finder, Match, Pair, read_split_file
from revt_hf.data.label_space import LabelSpace
from revt_hf.data.reading import Decode

_NANOSECONDS = 1_000_000_000


class PairedOptions(Section):
    # Take only this one; by default the first that is found, official ones first.
    layout: Literal["official", "converted"] | None = None
    # Split -> text file, relative to data_dir, with one name, stem or path a line: narrows a split
    # of the dataset down, or makes a new one out of all of them.
    split_files: dict[str, str] = Field(default_factory=dict)
    # Of a label without an orientation whose image EXIF turns: true turns it too, false does not;
    # None does not, and warns.
    labels_follow_exif: bool | None = None


def pairs_builder(
    pairs: Sequence[Pair], split: str, name: str, key: Sequence[Any] = ()
) -> partial[RowsBuilder]:
    """A builder of pairs, with paths; ``datasets`` caches its table by their files and ``key``."""
    rows = [(pair.name, pair.image.path, pair.label.path) for pair in pairs]
    files = [file for pair in pairs for file in (pair.image, pair.label)]
    known = {"dataset_name": name, "hash": fingerprint([*key, *files])}
    return partial(RowsBuilder, rows, _row, split, **known)


def _row(paths: tuple[str, str, str]) -> dict[str, Any]:
    return dict(zip(("name", "image", "label"), paths, strict=True))


class PairedDomain(Domain):
    """A domain whose images and labels are files; a subclass sets what differs.

    Attributes:
        layouts: where to look for the files, the preferred layouts first.
        more_splits: splits with labels whose official number of images is not known.
        inside: splits that are a part of another split's folder, which they name.
        hidden_test: whether there is a test split without public labels.
        wrappers: folders that the archive may have been unpacked to.
        defects: images known to be defective, by name, with the reason; left out unless the option
            ``include_defective`` takes them.
        any_split: whether any folder is a split.
    """

    options_model = PairedOptions
    layouts: ClassVar[tuple[Layout, ...]] = ()
    more_splits: ClassVar[tuple[str, ...]] = ()
    inside: ClassVar[Mapping[str, str]] = {}
    hidden_test: ClassVar[bool] = False
    wrappers: ClassVar[tuple[str, ...]] = ()
    defects: ClassVar[Mapping[str, str]] = {}
    any_split: ClassVar[bool] = False

    def space(self, options: Any) -> LabelSpace:
        return self.layouts_of(self.chosen_config(None), options)[0].table.space

    def layouts_of(self, config: str | None, options: Any) -> Sequence[Layout]:
        return [layout for layout in self.layouts if layout.config in (None, config)]

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        """The names of a split among ``match.names``, those of its folder; None takes all."""
        return None

    def own_splits(self, data_dir: Path | None, config: str | None, options: Any) -> Sequence[str]:
        """The splits of the dataset itself, without those that ``split_files`` adds."""
        official = self.facts.images_of.get(config, self.facts.images)
        return (*official, *self.more_splits, *self.inside)

    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        own = self.own_splits(data_dir, config, options)
        return tuple(dict.fromkeys([*own, *options.split_files]))

    def existing(self, data_dir: Path | None) -> Path:
        """``data_dir`` as an absolute path; refuses one that is not given or does not exist."""
        if data_dir is None:
            raise UserError(f"the domain '{self.name}' needs data_dir, the folder of its data")
        if not data_dir.is_dir():
            raise UserError(f"data_dir {data_dir} is not a folder")
        return data_dir.resolve()

    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        match = self._match(split, self.existing(data_dir), config, options)
        layout = match.layout
        names, missing = self._names(split, match, options)
        defects = {} if getattr(options, "include_defective", True) else self.defects
        left_out = {name: defects[name] for name in names if name in defects}
        kept = [name for name in names if name not in left_out]
        pairs = [match.pairs[name] for name in kept if name in match.pairs]
        missing += tuple(match.unusable[name] for name in kept if name in match.unusable)
        if not pairs and not missing:
            raise UserError(f"split '{split}' of {self.name} has no images in {match.root}")
        # Changes when an image or label does, but not when the data are moved; in seconds, as
        # archives and copies do not keep more.
        content = [
            [name, *([file.size, file.modified_ns // _NANOSECONDS] for file in (image, label))]
            for image, label, name in pairs
        ]
        expected = None
        if split not in options.split_files and layout.counted:
            expected = self.expected(split, config, options)
        return Opened(
            builder=pairs_builder(pairs, split, self.name, [split, *names]),
            decode=Decode(layout.table, layout.fit_labels, follow_exif=options.labels_follow_exif),
            layout=layout.kind,
            found=(
                f"{layout.kind} layout in {match.root}: {layout.described(split)}, "
                f"{counted(len(pairs), 'image')}, labels read as '{layout.table.name}'"
            ),
            images=len(pairs),
            content=fingerprint([split, *content]),
            expected=None if expected is None else expected - len(left_out),
            missing=missing,
            broken=tuple(match.broken.items()),
            unused=tuple(match.unused.items()),
            left_out=left_out,
        )

    def _match(self, split: str, root: Path, config: str | None, options: Any) -> Match:
        own = self.own_splits(root, config, options)
        splits = self.splits(root, config, options)
        if split == "test" and self.hidden_test and split not in splits:
            raise UserError(f"{self.name}: the labels of the test split are not public; use val")
        if split not in splits and not self.any_split:
            raise UserError(f"unknown split '{split}' of {self.name}: use {', '.join(splits)}")
        kind = options.layout
        layouts = [one for one in self.layouts_of(config, options) if kind in (None, one.kind)]
        if not layouts:
            reason = f"it has no {kind} layout"
            raise UserError(f"split '{split}' of {self.name} is not in {root}: {reason}")
        finder = Finder(root, self.wrappers, self.facts.download)
        if split in own or split not in options.split_files:
            return finder.find(layouts, self.inside.get(split, split), self.name)
        # A split of the user's own: of all splits that are there, in one layout.
        parts: list[Match] = []
        problems = []
        for part in dict.fromkeys(self.inside.get(name, name) for name in own):
            try:
                parts.append(finder.find([parts[0].layout] if parts else layouts, part, self.name))
            except UserError as error:
                problems.append(error)
        if not parts:
            none = UserError(f"{self.name} has no splits to take images from")
            raise next(iter(problems), none)
        for match in parts[1:]:
            for field in ("pairs", "unusable", "broken", "unused"):
                getattr(parts[0], field).update(getattr(match, field))
        return parts[0]

    def _names(self, split: str, match: Match, options: Any) -> tuple[list[str], Files]:
        """The split's names in order, and listed ones that are not there, each with the problem."""
        if split not in options.split_files:
            chosen = self.chosen(split, match, options)
            return [name for name in match.names if chosen is None or name in chosen], ()
        path = match.data_dir / options.split_files[split]
        listed, unknown = read_split_file(path, match.names, match.layout.suffixes()[0])
        return sorted(listed), tuple(
            (str(path), f"{path} lists '{entry}', an image that does not exist")
            for entry in unknown
        )
