"""CrossEncoder: a drop-in for sentence-transformers' class at inference; needs neither sentence-transformers nor PyTorch.

    from resift.integrations.sentence_transformers import CrossEncoder  # instead of: from sentence_transformers import CrossEncoder

Signatures and results are those of sentence-transformers 6.2 (https://sbert.net/docs/package_reference/cross_encoder/model.html).
"""

from __future__ import annotations

import os
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn, Self

from resift.errors import InputError
from resift.inputs import read_candidates, runs
from resift.integrations.sentence_transformers import arguments, export_cache
from resift.integrations.sentence_transformers import scores as scoring
from resift.integrations.sentence_transformers.outputs import bar_step, outputs_of
from resift.reranker import Reranker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resift.settings import Settings


class CrossEncoder:
    """Scores pairs of texts, and ranks documents for a query.

        model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L12-v2")
        scores = model.predict([("how do tides work", "The moon pulls ..."), ("how do tides work", "Bread rises ...")])
        ranking = model.rank("how do tides work", ["The moon pulls ...", "Bread rises ..."], return_documents=True)

    A function given as `activation_fn` receives the logits of all pairs at once, float32[n, labels]: as a torch.Tensor if torch has
    been imported, otherwise as a numpy array. Any number of threads may use one object.
    """

    @arguments.renamed(
        model_name="model_name_or_path",
        automodel_args="model_kwargs",
        tokenizer_args="processor_kwargs",
        tokenizer_kwargs="processor_kwargs",
        config_args="config_kwargs",
        cache_dir="cache_folder",
        default_activation_function="activation_fn",
    )
    @arguments.former
    def __init__(  # noqa: PLR0913 - sentence-transformers'
        self,
        model_name_or_path: str | None = None,
        *,
        modules: Any = None,
        device: str | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Callable[..., Any] | None = None,
        keep_in_fp32_modules: list[str] | None = None,
        relevant_label: str | int | None = None,
    ) -> None:
        """Loads an artifact, or exports a checkpoint once (extra `export`) into the cache and loads that.

        `model_name_or_path`: a folder with an artifact or a checkpoint, a hub id of either, or None for the embedded model, which
        the id of its checkpoint also loads. `cache_folder`, or SENTENCE_TRANSFORMERS_HOME: where downloads and exports are kept;
        None: the hub client's cache. `model_kwargs={"dtype": "float32"}` asks for float32 instead of int8. No code of a checkpoint
        is run, whatever `trust_remote_code` allows. `relevant_label`, which sentence-transformers does not have: the name or number
        of the label that means relevant, for a checkpoint with several; the model then has one label, the log-odds of that one.

        Raises InputError for arguments that resift has no use for, and like `export_cache.find` and `Reranker.load`.
        """
        refused = {"modules": modules, "model_card_data": model_card_data, "keep_in_fp32_modules": keep_in_fp32_modules or None}
        for name, value in refused.items():
            if value is not None:
                raise InputError(f"{name} is given, but {arguments.TORCH}; leave it out")
        labels = arguments.labels_of(config_kwargs, num_labels)
        settings = arguments.settings_of(device, backend, max_length, model_kwargs or {}, processor_kwargs or {})
        source = export_cache.ModelSource(
            name=export_cache.full_name(model_name_or_path),
            revision=revision,
            cache=cache_folder or os.getenv("SENTENCE_TRANSFORMERS_HOME"),
            token=token,
            local_files_only=local_files_only,
            relevant_label=None if relevant_label is None else str(relevant_label),
        )
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.trust_remote_code = trust_remote_code
        self.backend = backend
        self.model_card_data = scoring.Card()
        self.reranker = Reranker(export_cache.find(source, settings), settings=settings)
        """the engine"""
        if labels not in (None, self.num_labels):
            raise InputError(f"num_labels is {labels}, but {source.name} has {self.num_labels}; leave it out")
        self._prompt(None, None)
        self.activation_fn: Callable[..., Any] = self.get_default_activation_fn() if activation_fn is None else activation_fn

    @arguments.renamed(sentences="inputs", activation_fct="activation_fn", num_workers="")
    def predict(  # noqa: PLR0913 - sentence-transformers'
        self,
        inputs: Sequence[Sequence[str]] | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,  # noqa: FBT001
        activation_fn: Callable[..., Any] | None = None,
        apply_softmax: bool | None = False,  # noqa: FBT001, FBT002
        convert_to_numpy: bool = True,  # noqa: FBT001, FBT002
        convert_to_tensor: bool = False,  # noqa: FBT001, FBT002
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,  # noqa: ARG002 - of a pool of processes
        **kwargs: Any,
    ) -> Any:
        """Scores of pairs, float32[n] or, of a model with several labels, float32[n, labels], in the caller's order.

        `inputs`: (query, document) pairs, or a single one, whose scores come without the first dimension. `batch_size` is how many
        pairs the progress bar counts at a time: the engine forms batches itself. With `convert_to_tensor` the scores are a
        torch.Tensor on the CPU, and without `convert_to_numpy` a list of them; both need torch.

        Raises TypeError for anything but pairs of str, InputError for arguments that resift has no use for, ExtraError if torch is
        needed and not installed, and otherwise like `Reranker.submit`.
        """
        self._check_call(batch_size, device, pool)
        arguments.refuse_options("predict", kwargs)
        torch = scoring.import_torch() if convert_to_tensor or not convert_to_numpy else None
        pairs, is_single = arguments.read(inputs)
        pools = runs(pairs)
        outputs = outputs_of(self.reranker, pools, self._prompt(prompt_name, prompt), bar_step(batch_size, show_progress_bar))
        scores = scoring.scores_of(
            outputs, self.activation_fn if activation_fn is None else activation_fn, softmax=bool(apply_softmax)
        )
        found = scoring.array_of(scores) if torch is None else torch.tensor(scores)
        found = found if torch is None or convert_to_tensor else list(found)
        return found[0] if is_single else found

    @arguments.renamed(activation_fct="activation_fn", num_workers="", apply_softmax="", convert_to_numpy="", convert_to_tensor="")
    def rank(  # noqa: PLR0913 - sentence-transformers'
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,  # noqa: FBT001, FBT002
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,  # noqa: FBT001
        activation_fn: Callable[..., Any] | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,  # noqa: ARG002 - of a pool of processes
    ) -> list[dict[str, Any]]:
        """Documents for a query, best first: dicts of "corpus_id", "score" and, with `return_documents`, "text".

        Equal scores keep the order given. Raises InputError if the model has several labels, and like `predict`.
        """
        if self.num_labels != 1:
            raise InputError(
                "CrossEncoder.rank() only works for models with num_labels=1. Consider using CrossEncoder.predict() with input "
                f"pairs instead. Or load a checkpoint with relevant_label=: this model has {self.num_labels} labels"
            )
        self._check_call(batch_size, device, pool)
        candidates = read_candidates(query, documents)
        arguments.check_texts(documents, "documents")
        bar = bar_step(batch_size, show_progress_bar)
        outputs = outputs_of(self.reranker, [candidates], self._prompt(prompt_name, prompt), bar)
        scores = scoring.scores_of(outputs, self.activation_fn if activation_fn is None else activation_fn, softmax=False)
        results: list[dict[str, Any]] = [{"corpus_id": position, "score": score} for position, score in enumerate(scores.tolist())]
        if return_documents:
            for result, document in zip(results, candidates.documents, strict=True):
                result["text"] = document
        return sorted(results, key=itemgetter("score"), reverse=True)[:top_k]

    def is_singular_input(self, inputs: Any) -> bool:
        """Whether `inputs` is one pair, and not a batch of them."""
        return arguments.read(inputs)[1]

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """What an evaluator of sentence-transformers returns for this model."""
        if output_path is not None:
            os.makedirs(output_path, exist_ok=True)  # noqa: PTH103 - takes any path, as there
        return evaluator(self, output_path)

    def get_default_activation_fn(self) -> Callable[..., Any]:
        """The activation that the checkpoint declares.

        Raises InputError for two labels and sigmoid: an artifact does not say whether of each label or of their difference.
        """
        if self.reranker.graph.activation == "identity":
            return scoring.Identity()
        if self.num_labels > 1:
            raise InputError(
                "the model has two labels and declares sigmoid or softmax, an artifact does not say which; give activation_fn"
            )
        return scoring.Sigmoid()

    @property
    def num_labels(self) -> int:
        """Numbers that the model returns for a pair."""
        return self.reranker.graph.signature.labels

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a pair; the longer text of a longer pair is cut first. Setting it loads the model again."""
        return self.reranker.resolved.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._reload(replace(self.reranker.settings, max_length=value))

    @property
    def max_length(self) -> int:
        """The former name of `max_seq_length`."""
        arguments.warn_renamed("max_length", "max_seq_length")
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        arguments.warn_renamed("max_length", "max_seq_length")
        self.max_seq_length = value

    def get_max_seq_length(self) -> int:
        """`max_seq_length`."""
        return self.max_seq_length

    @property
    def default_activation_function(self) -> Callable[..., Any]:
        """The former name of `activation_fn`."""
        arguments.warn_renamed("default_activation_function", "activation_fn")
        return self.activation_fn

    @property
    def device(self) -> str:
        """Where the model runs, "cpu" or "cuda"; sentence-transformers gives a torch.device."""
        return self.reranker.provider

    @property
    def modalities(self) -> list[str]:
        """What can be scored."""
        return ["text"]

    def supports(self, modality: object) -> bool:
        """Whether `modality` can be scored: "text" alone."""
        return modality in self.modalities

    def get_backend(self) -> str:
        """The `backend` given; the model runs on onnxruntime whichever it is."""
        return self.backend

    def eval(self) -> Self:
        """Nothing to do: there is no training mode."""
        return self

    def to(self, device: Any) -> Self:
        """Moves to "cpu" or "cuda". Raises InputError for another device, and ProviderError if it cannot run the model."""
        provider = arguments.provider_of(device)
        if provider not in ("auto", self.reranker.provider):
            self._reload(replace(self.reranker.settings, provider=provider))
        return self

    def __getattr__(self, name: str) -> NoReturn:
        reason = arguments.ABSENT.get(name, "it has what sentence-transformers' class has for inference on text, on onnxruntime")
        raise AttributeError(f"{type(self).__name__} has no {name!r}: {reason}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reranker.artifact.manifest.model.id!r}, {self.reranker.precision} on {self.device})"

    def _reload(self, settings: Settings) -> None:
        self.reranker = Reranker(self.reranker.artifact, settings=settings)

    def _check_call(self, batch_size: int, device: Any, pool: Any) -> None:
        if batch_size <= 0:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}.")
        if pool is not None:
            raise InputError(f"pool is given, but {arguments.PROCESSES}; leave it out")
        asked = arguments.provider_of(device)
        if asked not in ("auto", self.reranker.provider):
            raise InputError(f"device is {device!r}, but the model runs on {self.device}; move it with to({device!r}) first")

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        model_prompt = self.reranker.artifact.manifest.pair.prompt
        return arguments.prompt_of(self.prompts, self.default_prompt_name, model_prompt, name=name, prompt=prompt)
