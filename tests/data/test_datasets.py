"""Data sets in every format, from small files, from a cache made by hand, and from the real files where present."""

import json
from pathlib import Path

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter

from codi_lens import Pair, UserError, Variant, load_pairs
from codi_lens.data.datasets import NAMES, SOURCES, Dataset, as_tested, load_dataset
from codi_lens.data.pairs import pair_as_json

SHARED = Path(__file__).parents[3] / "shared" / "data"
QUESTIONS, ANSWERS = ("How many  ducks?\n", "How much?"), (1200, -2.5)
PAIRS = [
    Pair(4, Variant("Is Tom a lempus?", "Tom is a lempus."), Variant("Is Tom a rempus?", "No.")),
    Pair(2, Variant("One?", 1), Variant("Two?", 2)),
]
SOLUTIONS = ["It has #### in it: <<3*400=1200>>1200.\n#### 1,200", "####-2.50"]
PROBLEMS = tuple(zip(QUESTIONS, SOLUTIONS, strict=True))
FORMATS = {
    "json": json.dumps(
        [
            {"question": question, "answer": answer, "steps": [], "edges": [[0, 1]]}
            for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
        ],
        indent=1,
    ),
    "jsonl": "\n".join(
        json.dumps({"question": question, "answer": solution})
        for question, solution in zip(QUESTIONS, SOLUTIONS, strict=True)
    ),
    "txt": "How many  ducks?||<<3*400=1200>> #### 1,200\r\n\nHow much?|| #### -2.50\n",
}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_of_each_format(tmp_path, ending):
    path = tmp_path / f"set.{ending}"
    path.write_text(FORMATS[ending], newline="")
    found = load_dataset(path)
    questions = tuple(map(str.strip, QUESTIONS)) if ending == "txt" else QUESTIONS
    assert found == Dataset(str(path), questions, ANSWERS, (0, 1))
    assert load_dataset(str(path), limit=1) == Dataset(str(path), questions[:1], (1200,), (0,))
    assert len(load_dataset(path, limit=99)) == 2


def test_pairs_are_asked_on_both_sides_in_either_format(tmp_path):
    prepared = [pair_as_json(pair) for pair in PAIRS]
    flat = [
        {"pair_id": entry["pair_id"], "variant": side, **entry[side]}
        for entry in prepared
        for side in ("clean", "corrupted")
    ]
    for name, content in (("pairs.json", prepared), ("flat.json", flat)):
        (tmp_path / name).write_text(json.dumps(content))
        found = load_dataset(tmp_path / name)
        assert found.questions == ("Is Tom a lempus?", "Is Tom a rempus?", "One?", "Two?")
        assert found.answers == ("Tom is a lempus.", "No.", 1, 2)
        assert found.ids == ("4 clean", "4 corrupted", "2 clean", "2 corrupted")
    assert load_dataset(tmp_path).questions == found.questions
    assert (
        load_dataset("toy-heldout", 3).questions[2] == load_pairs("toy-heldout")[1].clean.question
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no questions"),
        ("[]", "holds no questions"),
        ("[{", "is not readable JSON"),
        ('{"question": "A?", "answer": 1}\nB?', "is not readable JSON"),
        ("A question.\nA?||#### 1", "is no data set; a JSON list, a line of JSON"),
        (
            '[{"question": " ", "answer": 1}, 3, {"question": "A?", "answer": null}, '
            '{"question": "A?", "answer": true}, {"question": "A?"}, {"question": "A?", "answer": "####"}]',
            r"has 6 fault\(s\):\n  entry 0: question: expected text that is not blank\n  entry 1: question.*\n"
            r"  entry 2: answer: expected a number or text, found None\n  .*True\n  .*None\n  and 1 more",
        ),
    ],
)
def test_files_that_are_no_data_set(tmp_path, content, message):
    path = tmp_path / "given"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_names_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"No such file or directory; give one of gsm8k, gsm8k-aug"):
        load_dataset(tmp_path / "absent.jsonl")
    assert {"gsm8k", "gsm8k-aug", "prosqa", "toy", "toy-heldout"} < set(NAMES)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`, and no network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path


def fill(cache, hub_id, config, problems=PROBLEMS):
    """Problems in the layout in which `datasets` keeps what it has loaded from the hub."""
    name = hub_id.partition("/")[2]
    folder = cache / hub_id.replace("/", "___") / config / "0.0.0" / "0123abcd"
    folder.mkdir(parents=True)
    features = datasets.Features(dict.fromkeys(("question", "answer"), datasets.Value("string")))
    with ArrowWriter(path=str(folder / f"{name}-test.arrow"), features=features) as writer:
        for question, solution in problems:
            writer.write({"question": question, "answer": solution})
        count, size = writer.finalize()
    split = {"name": "test", "num_bytes": size, "num_examples": count, "dataset_name": name}
    datasets.DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name=name,
        config_name=config,
        version="0.0.0",
        splits={"test": split},
    ).write_to_directory(str(folder))


@pytest.mark.parametrize(
    ("name", "hub_id", "config"),
    [("gsm8k", "openai/gsm8k", "main"), ("gsm8k-aug", "whynlp/gsm8k-aug", "default")],
)
def test_what_is_in_the_cache_is_read_without_a_network(cache, name, hub_id, config):
    fill(cache, hub_id, config)
    assert load_dataset(name) == Dataset(name, QUESTIONS, ANSWERS, (0, 1), "number", "gsm8k")


def test_pairs_are_made_of_what_is_in_the_cache(cache):
    solution = "There are 14+25=<<14+25=39>>39 hens.\n#### 39"
    fill(cache, "openai/gsm8k", "main", [("14 hens meet 25 hens. How many hens?", solution)])
    (pair,) = load_pairs("gsm8k")
    assert (pair.pair_id, pair.clean.answer, pair.change.steps) == (0, 39, 1)


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k-aug", "prosqa"])
def test_pairs_of_what_is_not_in_the_cache_say_how_to_make_them(cache, name):
    with pytest.raises(
        UserError, match=rf"(?s)cannot load {name} .*make_pairs {name} --data FILE --out FOLDER"
    ):
        load_pairs(name)


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_not_in_the_cache_says_what_to_do(cache, name):
    with pytest.raises(
        UserError, match=rf"cannot load {name} \(.*; else give a file: .*github"
    ) as error:
        load_dataset(name)
    assert SOURCES[name].file in str(error.value)


def test_questions_as_the_test_script_prepares_them():
    assert as_tested("  One  two   three ?\n") == "One two  three ?"  # one pass, as there
    assert as_tested("One two?") == "One two?"


@pytest.mark.skipif(not SHARED.exists(), reason="the real files are not part of the repository")
def test_the_real_files():
    gsm8k, aug = (
        load_dataset(SHARED / "gsm8k_test.jsonl"),
        load_dataset(SHARED / "gsm8k_aug_test.txt"),
    )
    assert len(gsm8k) == 1319
    assert (gsm8k.questions, gsm8k.answers) == (aug.questions, aug.answers)
    assert gsm8k.known_as == load_dataset(SHARED / "gsm8k_test.jsonl", 5).known_as == "gsm8k"
    assert gsm8k.answers[:3] == (18, 3, 70000)
    assert all(isinstance(answer, int) for answer in gsm8k.answers)
    prosqa = load_dataset(SHARED / "prosqa_valid.json")
    assert (len(prosqa), prosqa.answers[0], prosqa.known_as) == (300, "Tom is a lempus.", None)


@pytest.mark.skipif(not SHARED.exists(), reason="the real files are not part of the repository")
def test_preparing_changes_the_prompts_of_nine_of_the_first_study_s_pairs():
    pairs = [
        p for p in load_pairs(SHARED / "llama_clean_corrupted_pairs.json") if not p.same_answer
    ]
    assert len(pairs) == 57
    changed = [
        pair.pair_id
        for pair in pairs
        if any(as_tested(v.question) != v.question for v in (pair.clean, pair.corrupted))
    ]
    assert changed == [61, 70, 283, 317, 318, 364, 419, 506, 551]
