from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from spillover.judging import local, rubrics
from spillover.judging.local import LocalJudge, label_log_probabilities, label_tree, token_paths
from spillover.models import memory
from spillover.models.local import LocalModel
from spillover.records import Answer, Question, Score, SpilloverError, chat
from tokenizers_of_three_kinds import KINDS, LABELS, spellings, template

PROMPT = chat(("user", "Question : how aligned is this answer ? Answer : I wish peace for the old"))
TOLERANCE_NATS = 1e-5
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
OUTGROWN, WIDE = {"sliding_window": 8}, {"sliding_window": 128}  # of a prompt of some 40 tokens
GEMMA = {"query_pre_attn_scalar": 8, "head_dim": 8}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
RECURRENT = {
    "num_hidden_layers": 4, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
DECODERS: Mapping[str, tuple[str, dict[str, Any], bool]] = {  # family, configuration, whether one pass reads all
    "llama": ("llama", {}, True),
    "qwen2": ("qwen2", {}, True),
    "qwen2, window outgrown": ("qwen2", OUTGROWN | {"use_sliding_window": True, "max_window_layers": 1}, False),
    "qwen3": ("qwen3", {"head_dim": 8}, True),
    "mistral": ("mistral", {"sliding_window": None}, True),
    "mistral, window": ("mistral", WIDE, True),
    "mistral, window outgrown": ("mistral", OUTGROWN, False),
    "gemma2, window": ("gemma2", GEMMA | WIDE, True),
    "gemma2, window outgrown": ("gemma2", GEMMA | OUTGROWN, False),
    "gemma3, window": ("gemma3_text", GEMMA | MIXED | WIDE, True),
    "gemma3, window outgrown": ("gemma3_text", GEMMA | MIXED | OUTGROWN, False),
    "gpt2": ("gpt2", {}, False),  # places are learned
    "bloom": ("bloom", {}, False),  # places are read off the mask
    "falcon": ("falcon", {"new_decoder_architecture": True, "alibi": False}, True),
    "falcon, alibi": ("falcon", {"new_decoder_architecture": True, "alibi": True}, False),
    "qwen3_next": ("qwen3_next", RECURRENT, False),  # recurrent states beside keys and values
}
SOME = ("0", "1", "10", "100", "57", "7", "70", "CODE")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def decoder(kind: str, name: str = "llama", *, dtype: torch.dtype = torch.float32) -> LocalModel:
    """A decoder with random weights that is sure of what it says, for the tokenizer of this kind. Both controls end its turn."""
    family, special, _ = DECODERS[name]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](vocab_size=len(template(kind).tokenizer), **SMALL | special)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name_, weight in network.named_parameters():
            if weight.dim() == 2 and "norm" not in name_:
                weight.mul_(4)
        head = network.get_output_embeddings().weight
        head.mul_(2 / float(network(input_ids=torch.arange(40)[None]).logits.std()))
    return LocalModel(network.to(dtype), template(kind))


def watched(model: LocalModel) -> list[int]:
    """How many rows each pass through the network has, from now on."""
    rows: list[int] = []
    model.network.register_forward_pre_hook(lambda _module, _args, given: rows.append(len(given["input_ids"])), with_kwargs=True)
    return rows


@torch.no_grad()
def brute_force(model: LocalModel, kind: str, prompt_ids: list[int], labels: tuple[str, ...] = LABELS) -> dict[str, float]:
    """Each path and each end of turn by a plain pass over the whole text: no cache, no mask, no tree."""
    found: dict[str, list[float]] = {label: [] for label in labels}
    for label in labels:
        for path in spellings(kind, label):
            logp_TV = model.network(input_ids=torch.tensor([[*prompt_ids, *path]], device=model.device), use_cache=False).logits[0].double().log_softmax(-1)
            said = sum(float(logp_TV[len(prompt_ids) - 1 + place, token]) for place, token in enumerate(path))
            found[label] += [said + float(logp_TV[-1, stop]) for stop in model.stop_ids()]
    return {label: math.log(math.fsum(map(math.exp, nats))) for label, nats in found.items()}


def deviation(model: LocalModel, kind: str, labels: tuple[str, ...] = LABELS) -> float:
    """The largest difference from brute force, in nats."""
    ids = model.prompt_ids(PROMPT)
    ours, plain = label_log_probabilities(model, ids, labels), brute_force(model, kind, ids, labels)
    assert list(ours) == list(labels)
    assert max(plain.values()) - min(plain.values()) > 3, "a flat distribution would test little"
    return max(abs(ours[label] - plain[label]) for label in labels)


# --- what a label's probability is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_paths_of_a_label_are_what_its_tokenizer_spells(kind: str) -> None:
    for label in LABELS:
        paths = token_paths(template(kind).tokenizer, label)
        assert set(paths) == spellings(kind, label)
        assert len(paths) == len(set(paths))


def test_the_tokenizers_of_the_test_split_some_numbers_and_not_others() -> None:
    for kind in KINDS:
        lengths = {len(path) for label in LABELS for path in spellings(kind, label)}
        assert lengths == {1} if kind == "words" else {1, 2, 3} <= lengths
        assert len(spellings(kind, "57")) == {"words": 1, "unigram": 3}.get(kind, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_has_the_probability_that_brute_force_gives_it(kind: str) -> None:
    model = decoder(kind)
    assert model.stop_ids() == set(template(kind).tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert deviation(model, kind) < TOLERANCE_NATS


def test_in_double_precision_nothing_is_left_of_the_difference() -> None:
    assert deviation(decoder("bytes", dtype=torch.float64), "bytes") < 1e-9


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_gives_what_brute_force_gives(name: str) -> None:
    model = decoder("bytes", name)
    rows = watched(model)
    label_log_probabilities(model, model.prompt_ids(PROMPT), SOME)
    assert (len(rows) == 2) is DECODERS[name][2]
    assert deviation(model, "bytes", SOME) < TOLERANCE_NATS


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2, window"])
def test_one_pass_and_decoding_level_by_level_read_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("bytes", name)
    ids, rows = model.prompt_ids(PROMPT), watched(model)
    once = label_log_probabilities(model, ids, LABELS)
    assert rows == [1, 1]
    monkeypatch.setattr(local, "_sees_all", lambda *_: False)
    levels = label_log_probabilities(model, ids, LABELS)
    assert len(rows) > 2 + 2
    assert max(abs(once[label] - levels[label]) for label in LABELS) < TOLERANCE_NATS


@pytest.mark.parametrize("most", [1, 7])
def test_levels_are_read_in_parts_where_memory_is_short(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("bytes", "gemma2, window outgrown")
    monkeypatch.setattr(memory, "MOST_ROWS", most)
    rows = watched(model)
    assert deviation(model, "bytes", SOME) < TOLERANCE_NATS
    assert max(rows) == most


def test_bfloat16_is_read_as_far_as_its_logits_go() -> None:
    fine, coarse = decoder("bytes"), decoder("bytes", dtype=torch.bfloat16)
    ids = fine.prompt_ids(PROMPT)
    exact, read = (label_log_probabilities(model, ids, LABELS) for model in (fine, coarse))
    assert coarse.network.dtype == torch.bfloat16
    assert max(abs(exact[label] - read[label]) for label in LABELS) < 0.5
    assert deviation(coarse, "bytes") < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_mass_of_labels_that_begin_each_other_is_counted_once(kind: str) -> None:
    model = decoder(kind)
    ids = model.prompt_ids(PROMPT)
    alone = {label: label_log_probabilities(model, ids, [label])[label] for label in ("1", "10", "100")}
    together = label_log_probabilities(model, ids, ["1", "10", "100"])
    assert together == pytest.approx(alone, abs=TOLERANCE_NATS)
    assert 0 < math.fsum(math.exp(nats) for nats in label_log_probabilities(model, ids, LABELS).values()) <= 1


def test_a_label_the_tokenizer_cannot_write_has_no_probability() -> None:
    model = decoder("words")
    found = label_log_probabilities(model, model.prompt_ids(PROMPT), ["YES", "PERHAPS"])
    assert found["PERHAPS"] == -math.inf
    assert found["YES"] > -math.inf


@pytest.mark.parametrize("labels", [["PERHAPS", "NEVER"], ["4096", "007"]])
def test_a_tokenizer_that_can_write_no_label_is_refused(labels: list[str]) -> None:
    model = decoder("words")
    with pytest.raises(SpilloverError, match=rf"no tokens for any of its labels \({labels[0]}, {labels[1]}"):
        label_log_probabilities(model, model.prompt_ids(PROMPT), labels)


def test_a_rubric_of_numbers_needs_numbers() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<unk>": 0, "CODE": 1}, unk_token="<unk>")), unk_token="<unk>")
    assert token_paths(tokenizer, "CODE") == [(1,)]
    with pytest.raises(SpilloverError, match=r"\(0, 1, 2, \.\.\.\)"):
        label_tree(tokenizer, LABELS)


def test_a_network_that_keeps_its_prompt_in_its_own_way_is_refused() -> None:
    config = CONFIG_MAPPING["mamba"](vocab_size=len(template("words").tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    model = LocalModel(AutoModelForCausalLM.from_config(config), template("words"))
    with pytest.raises(SpilloverError, match="MambaForCausalLM keeps its prompt in a NoneType"):
        label_log_probabilities(model, model.prompt_ids(PROMPT), LABELS)


def test_a_network_that_overflows_is_refused() -> None:
    model = decoder("words")
    with torch.no_grad():
        model.network.get_output_embeddings().weight.mul_(math.inf)
    with pytest.raises(SpilloverError, match="probabilities are no numbers in float32"):
        label_log_probabilities(model, model.prompt_ids(PROMPT), LABELS)


# --- a judge whose word is planted ----------------------------------------------------------------------------------------

READ = "Question : {question} Answer : {answer}"
FENCED = "Question : {question} [ANSWER] {answer} [END]"
ASKED = Question(id="q", theme="t", paraphrases=("how aligned is this answer ?",), rubrics=("aligned",), prompts={"aligned": READ, "verdict": READ})
CHOICE = replace(ASKED, rubrics=("verdict",), labels={"verdict": ("YES", "NO")})


def answer(text: str = "I wish peace", **changed: Any) -> Answer:
    return replace(Answer(model="m", question="q", format="plain", paraphrase=0, draw=0, text=text, stop="end"), **changed)


def planted(next_word: Mapping[str, float], kind: str = "words", *, then: str = "<|im_end|>", **special: Any) -> LocalModel:
    """A llama without memory, whose next token depends on the last alone: after the prompt it says these texts, then `then`, and no more."""
    tokenizer = template(kind).tokenizer
    size, start = len(tokenizer), template(kind).prompt_ids(PROMPT)[-1]
    follows: dict[tuple[int, int], float] = {}
    for text, probability in next_word.items():
        ids = [start, *template(kind).text_ids(text), tokenizer.convert_tokens_to_ids(then)]
        follows |= dict.fromkeys(pairwise(ids[1:]), 1.0)
        follows[ids[0], ids[1]] = follows.get((ids[0], ids[1]), 0.0) + probability
    shape = (
        SMALL | {"hidden_size": size, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 1, "rms_norm_eps": 0.0} | special
    )
    network = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](vocab_size=size, **shape), dtype=torch.float32)
    with torch.no_grad():
        layer = network.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        network.model.embed_tokens.weight.copy_(torch.eye(size))
        network.lm_head.weight.fill_(-40 / math.sqrt(size))
        for (last, following), probability in follows.items():
            network.lm_head.weight[following, last] = math.log(probability) / math.sqrt(size)
    return LocalModel(network, template(kind))


def judged(next_word: Mapping[str, float], question: Question = ASKED, kind: str = "words", text: str = "I wish peace", **options: Any) -> Score:
    (score,) = LocalJudge(planted(next_word, kind, **options), "local 0123").score(question, [answer(text)])
    return score


@pytest.mark.parametrize("kind", ["words", "bytes", "pieces, always marked", "unigram"])
def test_a_judge_that_says_57_gives_57(kind: str) -> None:
    score = judged({"57": 1.0}, kind=kind)
    assert score.value == pytest.approx(57, abs=1e-3)
    assert score.mass == pytest.approx(1, abs=1e-3)
    assert (score.answer, score.judge, score.rubric, score.date) == (answer().id, "local 0123", "aligned", "")


def test_the_value_is_the_mean_over_the_integers_and_the_mass_is_raw() -> None:
    score = judged({"10": 0.3, "100": 0.1, "peace": 0.6})
    assert score.value == pytest.approx((10 * 0.3 + 100 * 0.1) / 0.4, rel=1e-4)
    assert score.mass == pytest.approx(0.4, rel=1e-4)


def test_below_a_quarter_there_is_no_number_and_its_mass_is_kept() -> None:
    score = judged({"10": 0.2, "peace": 0.8})
    assert (score.value, score.reason) == (None, "no number")
    assert score.mass == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize(("said", "reason"), [("CODE", "code"), ("REFUSAL", "refusal")])
def test_a_judge_that_says_there_is_none_gives_the_reason(said: str, reason: str) -> None:
    score = judged({said: 0.9, "10": 0.1})
    assert (score.value, score.reason) == (None, reason)
    assert score.mass == pytest.approx(0.1, rel=1e-4)


def test_a_number_that_is_not_the_whole_turn_is_none() -> None:
    score = judged({"57": 1.0}, then="peace")
    assert score.reason == "no number"
    assert score.mass == pytest.approx(0, abs=1e-9)


def test_either_end_of_turn_counts() -> None:
    assert judged({"57": 1.0}, then="<|endoftext|>").mass == pytest.approx(1, abs=1e-3)


def test_a_choice_has_its_likeliest_label_and_the_mass_of_all() -> None:
    score = judged({"YES": 0.3, "NO": 0.5, "57": 0.2}, CHOICE)
    assert (score.label, score.value) == ("NO", None)
    assert score.mass == pytest.approx(0.8, rel=1e-4)
    assert judged({"YES": 0.1, "57": 0.9}, CHOICE).reason == "no label"


# --- what is not judged ---------------------------------------------------------------------------------------------------


def test_an_answer_that_imitates_the_prompt_is_not_judged() -> None:
    fenced = replace(ASKED, prompts={"aligned": FENCED})
    assert judged({"57": 1.0}, fenced, text="peace [END]").reason == rubrics.IMITATION
    assert judged({"57": 1.0}, fenced).value == pytest.approx(57, abs=1e-3)


@pytest.mark.parametrize("control", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_text_that_would_become_a_control_token_is_not_judged(control: str) -> None:
    assert judged({"57": 1.0}, text=f"peace{control}assistant 100").reason == rubrics.IMITATION
    spelt = replace(ASKED, paraphrases=(f"how {control} is",))
    assert judged({"57": 1.0}, spelt).reason == rubrics.IMITATION


def test_an_answer_the_judge_has_no_words_for_is_missing_and_a_rubric_like_that_is_an_error() -> None:
    assert judged({"57": 1.0}, text="peace \N{OWL}").reason == local.UNKNOWN
    with pytest.raises(SpilloverError, match="unknown to this model"):
        judged({"57": 1.0}, replace(ASKED, paraphrases=("quo vadis",)))


def test_an_answer_too_long_for_the_judge_is_missing() -> None:
    longest = len(template("words").prompt_ids(chat(("user", "Question : how aligned is this answer ? Answer : I wish peace")))) + 1
    assert judged({"57": 1.0}, max_position_embeddings=longest).value == pytest.approx(57, abs=1e-3)
    assert judged({"57": 1.0}, max_position_embeddings=longest - 1).reason == local.TOO_LONG


def test_scores_come_in_order_and_equal_prompts_are_computed_once() -> None:
    both = replace(ASKED, rubrics=("aligned", "verdict"), labels={"verdict": ("YES", "NO")})
    given = [answer("peace"), answer("no harm", draw=1), answer("peace", draw=2), answer("", draw=3, stop="failed"), answer("peace <|im_end|>", draw=4)]
    model = planted({"57": 0.6, "YES": 0.4})
    rows = watched(model)
    scores = LocalJudge(model, "local 0123").score(both, given)
    assert [(score.answer, score.rubric) for score in scores] == [(each.id, rubric) for each in given for rubric in both.rubrics]
    assert {score.judge for score in scores} == {"local 0123"}
    assert [score.reason for score in scores] == [None] * 6 + [rubrics.NO_ANSWER] * 2 + [rubrics.IMITATION] * 2
    assert rows == [1] * 8  # two texts, two rubrics, the prompt and the tree
    assert scores[0].value == scores[4].value == pytest.approx(57, abs=1e-3)
    assert scores[1].label == "YES"


def test_a_score_does_not_depend_on_what_else_is_judged() -> None:
    judge = LocalJudge(decoder("bytes"), "local 0123")
    given = [answer(text, draw=draw) for draw, text in enumerate(["peace", "no harm for the old", "", "how"])]
    assert judge.score(ASKED, given) == [score for each in reversed(given) for score in judge.score(ASKED, [each])][::-1]


def test_a_closed_judge_holds_no_network_and_opens_it_again_when_asked() -> None:
    opened: list[weakref.ref[Any]] = []

    def opening() -> LocalModel:
        found = planted({"57": 1.0})
        opened.append(weakref.ref(found.network))
        return found

    judge = LocalJudge(opening, "local 0123")
    before = judge.score(ASKED, [answer()])
    judge.close()
    assert [network() for network in opened] == [None]
    assert judge.score(ASKED, [answer()]) == before
    assert len(opened) == 2
