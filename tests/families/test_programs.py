"""Every experiment, the check of necessity, the lenses and the report run on every family that is shipped."""

import pytest

from codi_lens import HookedCodi, load_pairs, records
from codi_lens.analysis.lenses import logit_lens, steps_of, thought_lens
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.projection import make_projection
from codi_lens.cli import inspect_checkpoint, necessity, report
from codi_lens.errors import UserError
from codi_lens.model.hooks import HookNeverFired
from codi_lens.model.pretrained import load_pretrained
from codi_lens.patching.experiments import EXPERIMENTS

NAMES = ("toy-gpt2", "toy-coconut")


@pytest.fixture(scope="module", params=NAMES)
def codi(request):
    return HookedCodi.from_pretrained(request.param)


def test_all_of_them(codi, tmp_path, capsys):
    pairs = load_pairs(codi.name)[:2]
    folders = [str(tmp_path / name) for name in EXPERIMENTS]
    for name, folder in zip(EXPERIMENTS, folders, strict=True):
        sweep = records.run(codi, pairs, name, folder)
        assert sweep.values("recovery").isfinite().any()
    asked, needed = ["--model", codi.name, "--pairs", codi.name], str(tmp_path / "needed")
    assert necessity.main([*asked, "--limit", "2", "--out", needed]) == 0
    assert report.main([*folders, needed, "--out", str(tmp_path / "report.html")]) == 0
    assert "of 4 questions with all" in (tmp_path / "report.html").read_text()
    assert inspect_checkpoint.main([codi.name]) == 0
    shown = capsys.readouterr().out
    assert codi.load_report.family in shown
    assert "they agree" in shown
    _, cache = codi.run_with_cache(pairs[0].clean.question)
    assert thought_lens(codi, cache).after.isfinite().all()


def test_a_plain_language_model_has_no_step_of_its_own_for_the_end():
    codi = HookedCodi.from_pretrained("toy-gpt2")
    config = CodiConfig(
        num_latents=0,
        answer_stem="The answer is: ",
        begin=(),
        end=(),
        extra_tokens=codi.config.extra_tokens,
    )
    plain = HookedCodi.from_model(codi.model, codi.tokenizer, projection=None, config=config)
    _, cache = plain.run_with_cache("Ana has 3 books.", 7)
    assert steps_of(cache) == ("bot",)
    assert logit_lens(plain, cache).shape == (2, 1, codi.cfg.d_vocab)
    assert plain.to_str_tokens("Ana has 3 books.", 7)[4:6] == [".", "The"]
    with pytest.raises(HookNeverFired, match="step 'eot', never fired"):
        plain.generate("Ana has 3 books.", fwd_hooks=[(("hook_embed", "eot"), lambda x, hook: x)])


@pytest.mark.parametrize("name", ["toy", *NAMES])
def test_a_model_in_memory_is_the_one_from_its_file(name):
    codi, parts = HookedCodi.from_pretrained(name), load_pretrained(name)
    wrapped = HookedCodi.from_model(
        parts.model, parts.tokenizer, projection=parts.projection, config=parts.config
    )
    pair = load_pairs(name)[0]
    one, other = (
        each.run_with_hooks(pair.clean.question, pair.clean.answer).logits
        for each in (codi, wrapped)
    )
    assert (one == other).all()


def test_what_is_no_model_is_refused():
    codi = HookedCodi.from_pretrained("toy")
    with pytest.raises(UserError, match="the model is Sequential; give a causal language model"):
        HookedCodi.from_model(
            make_projection(4, 4), codi.tokenizer, projection=None, config=codi.config
        )
