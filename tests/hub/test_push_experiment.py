"""A whole run to the Hub: cards that link each other, and pushes that go on where they were cut."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from safetensors.torch import load_file, save_file

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import read_results
from revt_hf.experiments.publication import push_experiment
from revt_hf.hub.cards import check_card
from revt_hf.hub.commit import HubDataset
from revt_hf.merging.average import merge
from revt_hf.merging.registry import MergeSpec, Rule
from tests.helpers.command_line import refused, revt
from tests.helpers.finished_run import BASE, MERGE, OTHER, finish, finished_run
from tests.helpers.hub_repository import Failure, Repository, files_of
from tests.helpers.hub_server import TOKEN
from tests.helpers.pushed import LICENSE

MODELS = {BASE: "me/x-base-0", OTHER: "me/x-pixmix-0", MERGE: "me/x-revt-0-head-base"}
TABLE = "me/x-results"
REPOSITORIES = [*((("models", name)) for name in MODELS.values()), ("datasets", TABLE)]


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    return finished_run(models, tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run that may be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def _push(run, **options):
    more = {key: options.pop(key) for key in ("results", "only", "only_print") if key in options}
    return push_experiment(run, "me/x", replace(LICENSE, **options), **more)


def _card(hub, repo_id, kind="models"):
    return hub.repositories[kind, repo_id].files()["README.md"].decode()


def _metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def _collection(hub):
    (held,) = hub.collections.values()
    return held


def test_everything_is_published_and_linked(finished, hub, tmp_path):
    repositories, urls = _push(finished)
    places = [*MODELS.values(), f"datasets/{TABLE}"]
    assert urls == [f"{hub.endpoint}/{place}" for place in places]
    assert [one.repo_id for one in repositories] == [*MODELS.values(), TABLE]
    merged, table = _card(hub, MODELS[MERGE]), _card(hub, TABLE, "datasets")
    for name in MODELS.values():
        check_card(_card(hub, name))
        link = f"(https://huggingface.co/datasets/{TABLE})"
        assert link in _card(hub, name)
        assert f"(https://huggingface.co/{name})" in table
    metadata = _metadata(merged)
    assert metadata["base_model"] == [MODELS[BASE], MODELS[OTHER]]
    assert metadata["base_model_relation"] == "merge"
    for step in (BASE, OTHER):
        assert f"[`{MODELS[step]}`](https://huggingface.co/{MODELS[step]})" in merged
        assert f"(https://huggingface.co/{MODELS[MERGE]})" in _card(hub, MODELS[step])
        # The members' recipes are found in the run.
        assert "not recorded" not in merged.partition("## Use")[0]
    record = json.loads(hub.model(MODELS[MERGE]).files()["merge.json"])
    assert [one["path"] for one in record["members"]] == [MODELS[BASE], MODELS[OTHER]]
    # The selection's scores are not those of a second model.
    assert len(_metadata(merged)["model-index"][0]["results"]) == 2
    assert "Not evaluated." in _card(hub, MODELS[OTHER])
    assert "| ReVT |" in table and "| 1 base |" in table
    held = hub.repositories["datasets", TABLE].files()
    (tmp_path / "results.json").write_bytes(held["results.json"])
    results = read_results([tmp_path / "results.json"])
    assert [one.model for one in results] == [MODELS[BASE], MODELS[MERGE], MODELS[MERGE]]
    assert held["tables.csv"].startswith(b"protocol,source,")
    items = [*((name, "model") for name in MODELS.values()), (TABLE, "dataset")]
    assert (_collection(hub).title, _collection(hub).items) == ("x", items)
    for kind, name in REPOSITORIES:
        for content in hub.repositories[kind, name].files().values():
            assert str(finished).encode() not in content and b"/tmp" not in content


def test_a_second_push_sends_and_changes_nothing(finished, hub):
    _push(finished)
    before = {key: len(hub.repositories[key].commits) for key in REPOSITORIES}
    hub.requests.clear()
    assert len(_push(finished)[1]) == 4
    assert not [one for one in hub.requests if "PUT" in one or "/commit/" in one]
    assert not [one for one in hub.requests if one.endswith("/items")]
    assert {key: len(hub.repositories[key].commits) for key in REPOSITORIES} == before
    assert len(hub.collections) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "what", "done"),
    [
        ("PUT /storage/", "cut", 0),
        (f"/api/models/{MODELS[MERGE]}/commit/", 412, 2),
        (f"/api/datasets/{TABLE}/commit/", "forget", 3),
    ],
)
def test_a_push_that_was_cut_goes_on(finished, hub, where, what, done):
    hub.failures.append(Failure(where, what))
    words = rf"cannot push to me/x.*; {done} of 4 repositories are published: run the same command"
    with pytest.raises(UserError, match=words) as caught:
        _push(finished)
    assert TOKEN not in str(caught.value)
    # What comes last is not there, so that nothing looks done.
    assert not hub.collections
    written = [
        key for key in REPOSITORIES if len(getattr(hub.repositories.get(key), "commits", ())) > 1
    ]
    assert len(written) in (done, done + (what == "forget"))
    hub.failures.clear()
    hub.requests.clear()
    _push(finished)
    assert all(len(hub.repositories[key].commits) == 2 for key in REPOSITORIES)
    sent = [one for one in hub.requests if one.startswith("PUT")]
    # Weights that arrived are not sent again, be they in a commit or not.
    assert len(sent) <= len(REPOSITORIES) - 1 - done
    assert len(_collection(hub).items) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "what"),
    [("POST /api/collections", 403), ("POST /api/collections", "forget"), ("/items", "forget")],
)
def test_a_collection_that_failed_is_made_up_for(finished, hub, where, what):
    hub.failures.append(Failure(where, what))
    words = "cannot push to the collection x: .*; the models are published: run .* --collection"
    with pytest.raises(UserError, match=words) as caught:
        _push(finished)
    assert TOKEN not in str(caught.value)
    hub.failures.clear()
    _push(finished)
    assert len(_collection(hub).items) == 4


def test_a_collection_that_exists_is_extended(finished, hub):
    held = hub.collect("My roads")
    # A list tells four items of each.
    held.items += [(f"me/else{number}", "model") for number in range(6)]
    _push(finished, only=["merges"], collection=held.title)
    before = list(held.items)
    assert len(before) == 8
    _push(finished, only=["merges"], collection=held.slug)
    assert list(hub.collections.values()) == [held] and held.items == before


def test_what_the_hub_holds_is_looked_at_before_anything_is_sent(finished, hub):
    def refuses(words, **options):
        with pytest.raises(UserError, match=words):
            _push(finished, **options)
        assert not [one for one in hub.requests if one.startswith(("POST", "PUT"))]

    hub.repositories["models", MODELS[MERGE]] = Repository({"model.bin": b""})
    refuses(r"x-revt-0-head-base exists already and holds other content \(model.bin\)")
    del hub.repositories["models", MODELS[MERGE]]
    hub.make("datasets", TABLE)
    refuses(f"the Hub dataset {TABLE} exists already and is public", private=True)
    hub.repositories.clear()
    refuses("there is no collection me/none: copy its slug", collection="me/none")
    hub.collect("x")
    refuses("the collection me/x-.* exists already and is public", private=True)
    named = {"night": HubDataset("a/roads", "val")}
    refuses("night=a/roads:val: there is no dataset of that name", dataset_ids=named)
    hub.failures.append(Failure("GET /api/models/me/x-base-0", 503))
    refuses("cannot push to me/x: .*503; nothing was sent: run the same command again")


def test_everything_is_private(finished, hub):
    _push(finished, private=True)
    assert all(hub.repositories[key].private for key in REPOSITORIES)
    assert _collection(hub).private


def test_only_some_models_and_then_the_others(finished, hub):
    _push(finished, only=["members/*"])
    assert set(hub.repositories) == {*REPOSITORIES} - {("models", MODELS[MERGE])}
    # What is not on the Hub is not linked.
    assert MODELS[MERGE] not in _card(hub, MODELS[BASE]) + _card(hub, TABLE, "datasets")
    _push(finished, only=["merges"])
    assert _metadata(_card(hub, MODELS[MERGE]))["base_model"] == [MODELS[BASE], MODELS[OTHER]]
    assert len(_collection(hub).items) == 4


def test_a_place_of_two_models_is_linked_for_neither(run, hub):
    for name in ("a b", "a-b"):
        shutil.copytree(run / OTHER, run / "members" / name)
        finish(run, f"members/{name}")
    _push(run, only=["members/a-b"])
    _push(run, only=["members/a-b", "members/base"])
    table = _card(hub, TABLE, "datasets")
    assert "`members/a-b`" in table and "`members/a b`" not in table
    _push(run, only=["members/base"])
    assert "me/x-a-b" not in _card(hub, TABLE, "datasets")


def test_print_and_dry_run_show_what_would_be_pushed_and_ask_nobody(
    finished, hub, capsys, tmp_path
):
    push = ["push", "--experiment", finished, "me/x", "--license", "mit", "--quiet"]
    code, shown, error = revt(capsys, *push, "--print")
    assert (code, error) == (0, "")
    dry = tmp_path / "dry"
    for more in ([], ["--overwrite"]):
        assert revt(capsys, *push, "--dry-run", dry, *more) == (0, shown, "")
    assert hub.requests == []
    *lines, total = shown.splitlines()
    for (step, name), line in zip([*MODELS.items(), ("table", TABLE)], lines, strict=True):
        size = sum(map(len, files_of(dry / name.partition("/")[2]).values())) / 2**20
        assert line.startswith(f"{name} ({step}): ") and line.endswith(f" files, {size:,.1f} MiB")
    assert total.startswith("would be pushed: 4 repos, ")
    code, out, error = revt(capsys, *push)
    assert (code, error) == (0, "")
    assert out.count("pushed: ") == 4
    for kind, name in REPOSITORIES:
        sent = dict(hub.repositories[kind, name].files())
        del sent[".gitattributes"]
        assert sent == files_of(dry / name.partition("/")[2])


def test_a_model_that_started_from_another_names_it(run, hub):
    recipe = yaml.safe_load((run / OTHER / "recipe.yaml").read_text())
    recipe["model"]["init"] = f"elsewhere/{BASE}"
    for key in ("size", "depths", "hidden_sizes", "decoder_hidden_size"):
        recipe["model"].pop(key, None)
    (run / OTHER / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    _push(run, base_models=["timm/net"])
    assert _metadata(_card(hub, MODELS[OTHER]))["base_model"] == [MODELS[BASE]]
    # The others started from what was named.
    assert _metadata(_card(hub, MODELS[BASE]))["base_model"] == ["timm/net"]
    assert "timm/net" not in _card(hub, MODELS[MERGE])


def test_members_that_are_averages_of_the_run_are_published_and_others_are_named(
    run, models, hub, tmp_path, caplog
):
    shutil.rmtree(run / MERGE)
    average = shutil.copytree(run / OTHER, run / BASE / "ema")
    tensors = load_file(average / "model.safetensors")
    tensors["decode_head.classifier.bias"] += 1
    save_file(tensors, average / "model.safetensors", metadata={"format": "pt"})
    outside = shutil.copytree(models.revt, tmp_path / "mine")
    paths, rules = (str(average), str(outside)), (Rule("backbone", "task_arithmetic"),)
    merge(MergeSpec(paths, rules, base=str(run / BASE)), run / MERGE)
    finish(run, MERGE)
    shutil.rmtree(run / "results")
    with caplog.at_level("INFO", logger="revt_hf"):
        repositories, _ = _push(run)
    assert [one.repo_id for one in repositories] == [
        *(MODELS[BASE], MODELS[OTHER], f"{MODELS[BASE]}-ema", MODELS[MERGE])
    ]
    assert _metadata(_card(hub, MODELS[MERGE]))["base_model"] == [f"{MODELS[BASE]}-ema"]
    record = json.loads(hub.model(MODELS[MERGE]).files()["merge.json"])
    assert record["base"]["path"] == MODELS[BASE]
    assert f"not published, so that no card links them: {outside}\n" in caplog.text


def _other_weights(run, step=BASE):
    tensors = load_file(run / step / "model.safetensors")
    tensors["decode_head.classifier.bias"] += 1
    save_file(tensors, run / step / "model.safetensors", metadata={"format": "pt"})


def _other_protocol(run):
    shutil.copytree(run / "results" / "recipe", run / "results" / "native")


def test_weights_that_change_while_others_are_sent_are_refused(run, hub, monkeypatch):
    class Requests(list):
        def append(self, request):
            super().append(request)
            if "commit" in request:
                _other_weights(run, OTHER)

    monkeypatch.setattr(hub, "requests", Requests())
    with pytest.raises(UserError, match="pixmix/0 changed while the experiment was published"):
        _push(run)
    assert len(hub.model(MODELS[BASE]).commits) == 2
    assert ("models", MODELS[OTHER]) not in hub.repositories


def test_a_base_model_of_no_model_is_refused(finished, hub):
    with pytest.raises(UserError, match="--base-model timm/net: no model to push was made from"):
        _push(finished, only=["merges"], base_models=["timm/net"])
    assert hub.requests == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_weights, f"{BASE} is not as revt run left it: run the experiment again"),
        (lambda run: (_other_weights(run), finish(run, BASE)), f"than {BASE} has now"),
        (lambda run: shutil.rmtree(run / OTHER), f"{OTHER} is not as revt run left it"),
        (lambda run: (run / ".steps" / f"{OTHER}.json").write_text("{"), "is not as revt run left"),
        (lambda run: shutil.rmtree(run / ".steps"), "is no folder of an experiment: give the"),
        (_other_protocol, r"several protocols \(native, recipe\): choose .* --results .*/native"),
        (lambda run: (run / MERGE / "config.json").unlink(), "head-base is not as revt run left"),
    ],
)
def test_a_run_that_is_not_what_it_was_is_refused_before_any_request(run, hub, spoil, words):
    spoil(run)
    with pytest.raises(UserError, match=words):
        _push(run)
    assert hub.requests == [] and not hub.repositories


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("RUN me/x --experiment RUN", "goes with OWNER/PREFIX alone"),
        ("me/x --experiment RUN --with-members RUN", "goes with OWNER/PREFIX alone"),
        ("me/x --experiment RUN --create-pr", "--with-space are for one model"),
        ("me/x --experiment RUN --revision v2", "--with-space are for one model"),
        ("me/x --experiment RUN --with-space", "--with-space are for one model"),
        ("x --experiment RUN", "'x' is not the ID of a Hub model"),
        ("RUN", "name the folder, then the repository: revt push FOLDER OWNER/NAME"),
        ("RUN me/x --only members", "--only and --print go with --experiment"),
        ("RUN me/x --print", "--only and --print go with --experiment"),
        ("me/x --experiment RUN --only no", "--only no: it matches no step; --print lists them"),
    ],
)
def test_options_that_do_not_go_together_are_refused(finished, hub, capsys, words, sentence):
    arguments = [finished if word == "RUN" else word for word in words.split()]
    assert sentence in refused(capsys, "push", *arguments, "--license", "mit")
    assert hub.requests == []
