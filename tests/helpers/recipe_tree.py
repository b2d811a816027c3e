"""The files below ``recipes``: which are whole, and of which kind."""

from revt_hf.config.yaml_files import read_with_parents
from revt_hf.data.domains import checked_options, get_domain
from tests.helpers.golden import ROOT

RECIPES = ROOT / "recipes"
SOURCES = ("gta5", "synthia")
SIZES = ("b1", "b2", "b3", "b5")

# Others extend them; alone they lack a model or members.
_PARTS = {"parts", "sizes", "methods", "protocol.yaml", "member.yaml"}
# Configurations of other programs.
_FOREIGN = {RECIPES / name for name in ("accelerate", "slurm", "hf_jobs")}
FILES = sorted(
    path
    for path in (*RECIPES.rglob("*.yaml"), *ROOT.glob("revt_hf/demo/recipes/*.yaml"))
    if not _FOREIGN & set(path.parents)
)
PARTS = [path for path in FILES if _PARTS & set(path.relative_to(ROOT).parts)]
_WHOLE = [path for path in FILES if path not in PARTS]
EXPERIMENTS = [path for path in _WHOLE if "members" in read_with_parents(path)]
TRAINING = [path for path in _WHOLE if path not in EXPERIMENTS]
PAPER_EXPERIMENTS = [path for path in EXPERIMENTS if path.relative_to(RECIPES).parts[0] in SOURCES]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def splits_of_domain(spec):
    """The splits of a recipe's domain."""
    domain = get_domain(spec.domain)
    options = checked_options(domain, spec.options)
    return domain.splits(None, domain.chosen_config(spec.config), options)
