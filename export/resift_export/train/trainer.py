"""trainer: sentence-transformers' CrossEncoderTrainer, set up so that a killed run resumes to the same weights.

What the trainer does is its own: steps, optimizer, schedule, states and the choice of the best one. Set here are the order of the
batches, which is that of the datasets, and what it writes and prints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback

from resift_export.train.development import BEST
from resift_export.train.losses import general_loss, loss_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from resift_export.train.development import DevelopmentEvaluator
    from resift_export.train.options import Loss, TrainOptions

OWN, GENERAL = "pairs", "general"
GENERAL_COLUMNS = ("general_query", "general_document", "label")
WEIGHT_DECAY = 0.01
STATES = 3
"""States that stay on the disk: the best and the last two, as the newest one may not be whole."""


@dataclass(frozen=True)
class Material:
    """What a training reads, in order."""

    rows: list[dict[str, Any]]
    batch: int
    """rows of a part of a step"""
    general: list[tuple[str, str, float]]
    """general pairs with their logits by the checkpoint"""
    general_batch: int
    accumulation: int
    """parts of a step"""

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        parts = math.ceil(len(self.rows) / self.batch) + math.ceil(len(self.general) / self.general_batch)
        return math.ceil(parts / self.accumulation)

    def datasets(self) -> DatasetDict:
        """The datasets of the trainer, by the names of their losses."""
        found = {OWN: Dataset.from_list(self.rows)}
        if self.general:
            found[GENERAL] = Dataset.from_dict(dict(zip(GENERAL_COLUMNS, map(list, zip(*self.general, strict=True)), strict=True)))
        return DatasetDict(found)


class _Interleaved(MultiDatasetDefaultBatchSampler):  # type: ignore[misc]
    """The batches of all datasets in their order, those of each spread evenly."""

    def __iter__(self) -> Iterator[list[int]]:
        offsets = [0]
        for dataset in self.dataset.datasets:
            offsets.append(offsets[-1] + len(dataset))
        due = sorted(
            ((number + 0.5) / len(sampler), which)
            for which, sampler in enumerate(self.batch_samplers)
            for number in range(len(sampler))
        )
        iterators = [iter(sampler) for sampler in self.batch_samplers]
        for _, which in due:
            yield [offsets[which] + index for index in next(iterators[which])]

    def __len__(self) -> int:
        return sum(map(len, self.batch_samplers))


class _InOrder(CrossEncoderTrainer):  # type: ignore[misc]
    """The trainer, with batches in the order of the datasets and without a model card, which would quote texts and ask the hub."""

    general_batch = 1

    def get_batch_sampler(self, dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:  # noqa: FBT001 - as there
        """The rows in order."""
        size = self.general_batch if GENERAL_COLUMNS[0] in dataset.column_names else batch_size
        return DefaultBatchSampler(SequentialSampler(dataset), size, drop_last)

    def get_multi_dataset_batch_sampler(self, dataset: Any, batch_samplers: list[Any], **_: Any) -> _Interleaved:
        """All batches in an order of their own."""
        return _Interleaved(dataset, batch_samplers)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002 - as there
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


def trainer_of(  # noqa: PLR0913 - all that a trainer is made of
    encoder: Any,
    loss: Loss,
    material: Material,
    development: DevelopmentEvaluator,
    options: TrainOptions,
    folder: Path,
    device: torch.device,
) -> Any:
    """The trainer, whose states are written into `folder`."""
    every = math.ceil(material.steps / options.evaluations)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,  # all epochs are laid out in the datasets
        per_device_train_batch_size=material.batch,
        gradient_accumulation_steps=material.accumulation,
        learning_rate=options.lr,
        warmup_steps=round(options.warmup * material.steps),
        lr_scheduler_type="linear",
        weight_decay=WEIGHT_DECAY,
        bf16=options.dtype == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=options.seed % (1 << 32),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=STATES,
        metric_for_best_model=BEST,
        greater_is_better=True,
        logging_strategy="steps",
        logging_steps=every,
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        report_to="none",
        disable_tqdm=True,
    )
    if device.type == "cuda":
        arguments._n_gpu = 1  # noqa: SLF001 - with more, the trainer would split each batch
    losses = {OWN: loss_of(loss, encoder), GENERAL: general_loss(encoder)}
    datasets = material.datasets()
    trainer = _InOrder(
        model=encoder,
        args=arguments,
        train_dataset=datasets,
        loss={name: losses[name] for name in datasets},
        evaluator=development,
    )
    trainer.general_batch = material.general_batch
    trainer.remove_callback(PrinterCallback)
    return trainer
