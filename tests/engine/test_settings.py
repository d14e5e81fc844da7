from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from resift import InputError, Settings
from resift.documents import DocumentTemplate
from resift.settings import ResolvedSettings, resolve

NUMBERS = ["threads", "token_budget", "max_length", "waiting_tokens"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [1.0, True, False, None, "4", "Auto", [4]])
def test_a_number_of_the_wrong_type_is_a_type_error(name, value):
    with pytest.raises(TypeError, match=rf"Settings\.{name} is {type(value).__name__}; expected an int or 'auto'"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_1_is_an_input_error(name, value):
    with pytest.raises(InputError, match=rf"Settings\.{name} is {value}; expected 1 to "):
        Settings(**{name: value})


def test_no_bytes_are_a_cache_and_no_number_below_it():
    assert Settings(document_cache=0).document_cache == 0
    with pytest.raises(InputError, match=r"Settings\.document_cache is -1; expected 0 to "):
        Settings(document_cache=-1)
    with pytest.raises(TypeError, match=r"Settings\.document_cache is bool; expected an int or 'auto'"):
        Settings(document_cache=False)
    assert resolve(Settings(), cores=1, token_budget=1, max_length=8).document_cache == 64 << 20
    assert resolve(Settings(document_cache=0), cores=1, token_budget=1, max_length=8).document_cache == 0


def test_a_store_is_a_path_of_any_kind_which_a_file_can_hold(tmp_path):
    assert Settings(store=tmp_path).table() == {"store": str(tmp_path)}
    assert resolve(Settings(store="a/b"), cores=1, token_budget=1, max_length=8).store == Path("a/b")
    assert resolve(Settings(), cores=1, token_budget=1, max_length=8).store is None
    for value in ("", "a\0b"):
        with pytest.raises(InputError, match=r"Settings\.store is .*; expected the path of a folder, or 'auto'"):
            Settings(store=value)
    with pytest.raises(TypeError, match=r"Settings\.store is int; expected the path of a folder, or 'auto'"):
        Settings(store=7)


def test_the_number_of_a_gpu_becomes_an_option_of_cuda():
    settings = Settings(provider="cuda:01", provider_options={"gpu_mem_limit": 1 << 30})
    assert settings.provider == "cuda"
    assert settings.provider_options == {"gpu_mem_limit": "1073741824", "device_id": "1"}
    assert settings == Settings(provider="cuda", provider_options={"gpu_mem_limit": 1 << 30, "device_id": 1})
    assert Settings(provider="cuda:1").table() == {"provider": "cuda", "provider_options": {"device_id": "1"}}
    assert Settings().with_arguments(provider="cuda:2") == Settings(provider="cuda:2")
    assert Settings(provider="cuda:1", provider_options={"device_id": "1"}) == Settings(provider="cuda:1")


def test_two_numbers_of_gpus_contradict_each_other():
    with pytest.raises(InputError, match=r"^Settings\.provider is 'cuda:1' but the option device_id is 0; give only one$"):
        Settings(provider="cuda:1", provider_options={"device_id": 0})


@pytest.mark.parametrize("value", ["cuda:", "cuda:x", "cuda:-1", "cuda:12345", "cuda: 1", "cpu:1", "CUDA:1", "cuda:1\n"])
def test_what_is_no_number_of_a_gpu_is_an_input_error(value):
    with pytest.raises(InputError, match=r"^Settings\.provider is .*; expected 'auto' or one of cpu, cuda"):
        Settings(provider=value)


@pytest.mark.parametrize("value", [True, None, "1"])
def test_seconds_of_the_wrong_type_are_a_type_error(value):
    with pytest.raises(TypeError, match=r"Settings\.waiting_seconds is \w+; expected a number or 'auto'"):
        Settings(waiting_seconds=value)


@pytest.mark.parametrize("value", [0, -1.5, math.inf, math.nan])
def test_seconds_out_of_range_are_an_input_error(value):
    with pytest.raises(InputError, match=r"Settings\.waiting_seconds is .*; expected a number above 0, or 'auto'"):
        Settings(waiting_seconds=value)


@pytest.mark.parametrize("value", ["int4", "INT8", ""])
def test_an_unknown_precision_is_an_input_error(value):
    with pytest.raises(InputError, match=rf"Settings\.precision is '{value}'; expected 'auto' or one of int8, float16, float32"):
        Settings(precision=value)


@pytest.mark.parametrize("value", ["gpu", "CPU", "", "CUDAExecutionProvider"])
def test_an_unknown_provider_is_an_input_error(value):
    with pytest.raises(InputError, match=rf"Settings\.provider is '{value}'; expected 'auto' or one of cpu, cuda"):
        Settings(provider=value)


@pytest.mark.parametrize("value", ["only_first", "", "longest"])
def test_an_unknown_truncation_is_an_input_error(value):
    with pytest.raises(
        InputError, match=rf"Settings\.truncation is '{value}'; expected 'auto' or one of only_second, longest_first"
    ):
        Settings(truncation=value)


@pytest.mark.parametrize("value", ["auto", "int8", "float32"])
def test_known_precisions_are_kept(value):
    assert Settings(precision=value).precision == value


def test_numpys_numbers_are_numbers():
    found = Settings(threads=np.int64(2), windows=np.uint8(4), waiting_seconds=np.float32(1.5))
    assert found == Settings(threads=2, windows=4, waiting_seconds=1.5)
    assert [type(value) for value in (found.threads, found.windows, found.waiting_seconds)] == [int, int, float]


@pytest.mark.parametrize("value", [np.True_, np.float32(2), np.array([2, 2]), np.datetime64(2, "D")])
def test_what_only_looks_like_a_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=rf"Settings\.threads is {type(value).__name__}; expected an int or 'auto'"):
        Settings(threads=value)


@pytest.mark.parametrize("value", ["probability", "Sigmoid", ""])
def test_an_unknown_scale_is_an_input_error(value):
    with pytest.raises(InputError, match=rf"Settings\.scores is '{value}'; expected 'auto' or one of logit, sigmoid"):
        Settings(scores=value)


@pytest.mark.parametrize("value", [None, 7, ["{text}"]])
def test_a_template_or_a_scale_of_the_wrong_type_is_a_type_error(value):
    with pytest.raises(TypeError, match=rf"Settings\.document_template is {type(value).__name__}; expected a str"):
        Settings(document_template=value)
    with pytest.raises(TypeError, match=rf"Settings\.scores is {type(value).__name__}; expected a str"):
        Settings(scores=value)


def test_the_models_scale_and_the_text_alone_are_the_default():
    found = resolve(Settings(), cores=1, token_budget=256, max_length=512, scores="sigmoid")
    assert (found.scores, str(found.document_template)) == ("sigmoid", "{text}")
    asked = Settings(scores="logit", document_template="{title}: {text}")
    found = resolve(asked, cores=1, token_budget=256, max_length=512, scores="sigmoid")
    assert (found.scores, found.document_template) == ("logit", DocumentTemplate.parse("{title}: {text}"))
    assert pickle.loads(pickle.dumps(asked)) == asked


def test_an_argument_must_not_contradict_a_template_or_a_scale():
    asked = Settings(scores="logit", document_template="{title}")
    assert asked.with_arguments(scores="logit", document_template=None) == asked
    for name, value in (("scores", "sigmoid"), ("document_template", "{text}")):
        with pytest.raises(InputError, match=rf"{name} is .* but Settings\.{name} is"):
            asked.with_arguments(**{name: value})
        assert getattr(Settings().with_arguments(**{name: value}), name) == value


def test_settings_are_keywords_that_cannot_change():
    with pytest.raises(TypeError):
        Settings(4)
    settings = Settings(threads=4)
    with pytest.raises(FrozenInstanceError):
        settings.threads = 5


def test_auto_takes_the_machines_cores_the_default_budget_and_the_models_length():
    assert resolve(Settings(), cores=6, token_budget=256, max_length=512) == ResolvedSettings(
        threads=6, token_budget=256, max_length=512, truncation="only_second", windows=1
    )


def test_what_was_asked_for_is_kept():
    settings = Settings(threads=9, token_budget=1, max_length=128, truncation="longest_first")
    assert resolve(settings, cores=6, token_budget=256, max_length=512) == ResolvedSettings(
        threads=9, token_budget=1, max_length=128, truncation="longest_first", windows=1
    )


def test_all_of_the_models_length_may_be_asked_for_and_no_more():
    assert resolve(Settings(max_length=512), cores=1, token_budget=256, max_length=512).max_length == 512
    with pytest.raises(InputError, match=r"is 513 tokens, but this model takes at most 512; lower it"):
        resolve(Settings(max_length=513), cores=1, token_budget=256, max_length=512)
