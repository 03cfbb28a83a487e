"""The recipes of GLUE: they load, and their columns are those of GLUE's files."""

import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from manyheads.encoder.tokenizer import Tokenizer
from manyheads.evidence.glue import GLUE
from manyheads.recipe import Recipe
from manyheads.tasks import KINDS
from manyheads.training.splits import load_task, sources_of

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).parents[2]
TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
FILES = [ROOT / "recipes" / "glue" / f"{name}.yaml" for name in TASKS]
HUB = [ROOT / "recipes" / "glue" / "hub" / f"{name}.yaml" for name in TASKS]
ALL = ROOT / "recipes" / "glue_all.yaml"

# The measure that GLUE's table shows first (Wang et al. 2019, table 1).
FIRST = dict.fromkeys(TASKS, "accuracy") | {"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "pearson"}

# GLUE's files as they are handed out: header (None: without one), and a row.
INFERENCE = "\t".join(
    (
        *("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"),
        *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2"),
    )
)
SIMILARITY = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
PARAPHRASE = "#1 ID\t#2 ID\t#1 String\t#2 String"
LAYOUT: dict[str, tuple[str | None, str]] = {
    "CoLA/train.tsv": (None, 'gj04\t0\t*\tThe "book sold'),
    "CoLA/dev.tsv": (None, "gj04\t1\t\tIt sold."),
    "CoLA/test.tsv": ("index\tsentence", "0\tBill whistled."),
    "SST-2/train.tsv": ("sentence\tlabel", "a film \t1"),
    "SST-2/dev.tsv": ("sentence\tlabel", "no film \t0"),
    "MRPC/train.tsv": ("\ufeffQuality\t" + PARAPHRASE, '1\t70\t71\tHe said "no.\t"No," he said.'),
    "MRPC/dev.tsv": ("\ufeffQuality\t" + PARAPHRASE, "0\t70\t71\tHe said no.\tShe said."),
    "MRPC/test.tsv": ("index\t" + PARAPHRASE, "0\t70\t71\tHe said no.\tShe said."),
    "STS-B/train.tsv": (SIMILARITY + "\tscore", "0\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tA plane?\t5.000"),
    "STS-B/dev.tsv": (SIMILARITY + "\tscore", '0\tnews\tf\t2012\t1\tnone\tnone\tA "plane.\tA car.\t0.250'),
    "STS-B/test.tsv": (SIMILARITY, "0\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tA car."),
    "QQP/train.tsv": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", '13\t2\t3\tWhy?\tWhy "so?\t1'),
    "QQP/dev.tsv": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "14\t2\t3\tWhy?\tWho?\t0"),
    "QQP/test.tsv": ("id\tquestion1\tquestion2", "0\tWhy?\tWho?"),
    "MNLI/train.tsv": (
        INFERENCE + "\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t(\t(\t(\t(\tA.\tB.\tneutral\tneutral",
    ),
    **{
        f"MNLI/dev_{half}.tsv": (
            INFERENCE + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
            "0\t1\t1n\tfiction\t(\t(\t(\t(\tA.\tB.\tneutral\tentailment\tneutral\tneutral\tneutral\tentailment",
        )
        for half in ("matched", "mismatched")
    },
    **{
        f"MNLI/test_{half}.tsv": (INFERENCE, "0\t1\t1n\tfiction\t(\t(\t(\t(\tA.\tB.")
        for half in ("matched", "mismatched")
    },
    **{
        f"QNLI/{split}.tsv": ("index\tquestion\tsentence\tlabel", "0\tWho?\tIt was I.\tnot_entailment")
        for split in ("train", "dev")
    },
    "QNLI/test.tsv": ("index\tquestion\tsentence", "0\tWho?\tIt was I."),
    **{
        f"RTE/{split}.tsv": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tentailment")
        for split in ("train", "dev")
    },
    "RTE/test.tsv": ("index\tsentence1\tsentence2", "0\tA.\tB."),
    **{
        f"WNLI/{split}.tsv": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1")
        for split in ("train", "dev")
    },
    "WNLI/test.tsv": ("index\tsentence1\tsentence2", "0\tA.\tB."),
}
# (texts of the first row of train, its target) of each task, as the rows above say.
TRAIN = {
    "cola": (('The "book sold',), 0.0),
    "sst2": (("a film ",), 1.0),
    "mrpc": (('He said "no.', '"No," he said.'), 1.0),
    "stsb": (("A plane.", "A plane?"), 5.0),
    "qqp": (("Why?", 'Why "so?'), 1.0),
    "mnli": (("A.", "B."), 1.0),
    "qnli": (("Who?", "It was I."), 1.0),
    "rte": (("A.", "B."), 0.0),
    "wnli": (("A.", "B."), 1.0),
}

# Rows of train, dev and test at hand.
AT_HAND = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, None),
    "mrpc": (3668, 408, 1725),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
}


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """GLUE's folders with a row a file."""
    for name, (header, row) in LAYOUT.items():
        path = tmp_path / "glue" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in (header, row) if line is not None), encoding="utf-8")
    return tmp_path


def rows(recipe: Recipe, split: str, most: int | None = None) -> list[tuple[object, object]]:
    """(input, target) of a split's rows, the target None where there is no label."""
    ((_, section),) = recipe.tasks.items()
    kind = KINDS[section.kind](section)
    sources, _, columns = sources_of(section, split, Path(recipe.data or "."), kind.columns)
    assert columns is not None
    labelled = kind.target_column in columns
    assert labelled or split.startswith("test")
    return [
        (kind.input(row.values), kind.target(row.values[kind.target_column]) if labelled else None)
        for _, read in sources
        for row in islice(read(need=kind.columns), most)
    ]


def test_there_is_a_recipe_of_every_task_in_both_forms() -> None:
    assert set(GLUE) == set(TASKS)
    for folder, expected in ((ROOT / "recipes" / "glue", FILES), (ROOT / "recipes" / "glue" / "hub", HUB)):
        assert sorted(folder.glob("*.yaml")) == sorted(expected)


@pytest.mark.parametrize("path", [*FILES, *HUB, ALL], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_loads_and_opens_with_its_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    schema, command, *_ = text.splitlines()
    assert (
        path.parent / schema.partition("$schema=")[2]
    ).resolve() == ROOT / "recipes" / "recipe.schema.json"
    assert command == f"# manyheads train {name}"
    assert "row B3" in text or "rows B3" in text
    recipe = Recipe.load(path)
    assert set(recipe.tasks) == ({path.stem} if path != ALL else set(TASKS))
    assert (recipe.schedule.batch_size, recipe.schedule.epochs, recipe.optimizer.lr) == (32, 3, 2e-5)
    assert {section.max_length for section in recipe.tasks.values()} == {128}


@pytest.mark.parametrize("name", TASKS)
def test_the_one_model_reads_each_task_as_its_own_recipe_does(name: str) -> None:
    alone = Recipe.load(ROOT / "recipes" / "glue" / f"{name}.yaml")
    assert Recipe.load(ALL).tasks[name] == alone.tasks[name]


@pytest.mark.parametrize("name", TASKS)
def test_both_forms_of_a_task_predict_the_same_labels_by_glues_measure(name: str) -> None:
    files, hub = (Recipe.load(path / f"{name}.yaml").tasks[name] for path in (FILES[0].parent, HUB[0].parent))
    assert files.kind == hub.kind
    assert hub.hub is not None
    assert (hub.hub.path, hub.hub.name) == ("nyu-mll/glue", name)
    told = GLUE[name].labels
    if told is None:
        assert (files.range, hub.range) == ((0, 5), (0, 5))  # type: ignore[attr-defined]
        return
    # The first label in the files is the first on the hub: what is the second of two decides F1.
    assert files.labels == tuple(told)  # type: ignore[attr-defined]
    assert hub.labels == tuple(told.values())  # type: ignore[attr-defined]
    assert files.measure == hub.measure == FIRST[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TASKS)
def test_glues_own_layout_is_read(name: str, laid_out: Path) -> None:
    more = ["tasks.sst2.files.test=glue/SST-2/test.tsv"] if name == "sst2" else []
    (laid_out / "glue/SST-2/test.tsv").write_text("index\tsentence\n0\tfine\n")
    recipe = Recipe.load(ROOT / "recipes" / "glue" / f"{name}.yaml", [f"data={laid_out}", *more])
    assert rows(recipe, "train") == [TRAIN[name]]
    assert set(GLUE[name].files) <= set(recipe.tasks[name].split_names)
    for split in recipe.tasks[name].split_names:
        ((texts, target),) = rows(recipe, split)
        assert texts
        assert (target is None) is split.startswith("test")


def test_the_torn_rows_of_qqp_are_left_out_and_counted(laid_out: Path, tiny: "Tiny") -> None:
    header = LAYOUT["QQP/train.tsv"][0]
    good = "".join(f"{number}\t1\t2\tWho {number}?\tWhy?\t{number % 2}\n" for number in range(400))
    torn = '400\t1\t2\t"Was he real?\n"\tIs he real?\t0\n'
    (laid_out / "glue/QQP/train.tsv").write_text(f"{header}\n{torn}{good}", encoding="utf-8")
    recipe = Recipe.load(ROOT / "recipes" / "glue" / "qqp.yaml", [f"data={laid_out}"])
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    found = load_task("qqp", recipe, tokenizer, positions=512, splits=["train"]).splits["train"]
    assert found.targets is not None
    assert found.targets.tolist() == [0.0, 1.0] * 200
    assert [place.line for place in found.rows.unlabelled] == [2, 3]


@pytest.mark.parametrize("name", TASKS)
def test_the_files_at_hand_are_read_whole(name: str, shared_data: Path) -> None:
    if name not in AT_HAND:
        pytest.skip(f"GLUE's files of {name} are not at {shared_data}")
    recipe = Recipe.load(ROOT / "recipes" / "glue" / f"{name}.yaml", [f"data={shared_data}"])
    for split, count in zip(("train", "dev", "test"), AT_HAND[name], strict=True):
        assert (split in recipe.tasks[name].split_names) is (count is not None)
        if count is not None:
            found = rows(recipe, split)
            assert len(found) == count
            targets = {target for _, target in found}
            assert targets == ({None} if split == "test" else {0.0, 1.0})


def test_the_line_that_runs_here_names_what_is_at_hand(shared_data: Path) -> None:
    line = re.search(r"glue_all\.yaml --set '(use=.*)'", ALL.read_text(encoding="utf-8"))
    assert line is not None
    recipe = Recipe.load(ALL, [f"data={shared_data}", line[1]])
    assert sorted(recipe.tasks) == sorted(AT_HAND)
    named = [
        file for task in recipe.tasks.values() for files in (task.files or {}).values() for file in files
    ]
    assert [file for file in named if not (shared_data / file).is_file()] == []
