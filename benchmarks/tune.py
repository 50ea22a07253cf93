"""Training speed beside TRL's SFTTrainer and transformers' Trainer with PEFT: the same rows, rank and number format.

    python benchmarks/tune.py [--rows 600] [--repeats 3] [--out benchmarks/results/tune.json]

Each trainer works in a process of its own, in turns; every one sees the same batches in the same order, once. Reported
are real (unpadded) tokens a second of the training loop, the mean token loss on rows held out, and the peak memory of
the process. `forward` is what this machine does reading the same batches without a gradient: three times that work is
what training with a gradient through every layer costs at least.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SKEIN = Path(__file__).parents[1] / "examples" / "skein"
TRAINERS = ("forward", "ours", "trl", "transformers")
LIBRARIES = ("torch", "transformers", "peft", "trl")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=600, help="training rows; a tenth as many are held out")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--tokens-per-step", type=int, default=1536)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--worker", choices=TRAINERS, help=argparse.SUPPRESS)
    parser.add_argument("--rows-file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.rows_file = Path(folder) / "rows.json"
        arguments.rows_file.write_text(json.dumps(make_rows(arguments)))
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.trainers}
        for _ in range(arguments.repeats):
            for name in arguments.trainers:
                measured[name].append(in_own_process(name, arguments))
    report(measured)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record(arguments, measured), indent=2) + "\n")


def make_rows(arguments: argparse.Namespace) -> dict[str, list[list[list[int]]]]:
    """Rows of the mixed recipe on the sample corpus, as [prompt, completion]: to train on and held out."""
    import random

    from indexer.config import Workspace
    from indexer.encoding import load_encoder
    from indexer.readers import read_questions
    from indexer.retriever import Index
    from indexer.sync import sync
    from tuner.base_model import load_base
    from tuner.config import TuneConfig
    from tuner.material import gather

    encoder = load_encoder("bundled:all-minilm-l6-v2")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        sync(workspace, SKEIN / "documents", encoder, 160)
        index = Index.open(workspace, encoder)
        questions = read_questions(SKEIN / "questions.jsonl", index.documents())
        rows = gather(questions, index.retriever()).rows(
            load_base(arguments.model).tokenizer, TuneConfig(document_passes=2, closed_book_passes=2)
        )
    random.Random(0).shuffle(rows)
    needed = arguments.rows + arguments.rows // 10
    if len(rows) < needed:
        raise SystemExit(f"the sample makes {len(rows)} rows, not {needed}; lower --rows")
    pairs = [[list(row.prompt), list(row.completion)] for row in rows[:needed]]
    return {"train": pairs[: arguments.rows], "held_out": pairs[arguments.rows :]}


def in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", name, "--rows-file", str(arguments.rows_file)]
    for option in ("model", "rank", "tokens_per_step", "learning_rate"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    print(f"{name} …", file=sys.stderr, flush=True)
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def work(arguments: argparse.Namespace) -> dict[str, float]:
    """One trainer's run in this process."""
    import torch

    from tuner.base_model import load_base
    from tuner.batches import plan_batches
    from tuner.config import TuneConfig
    from tuner.examples import Row, RowKind

    data = json.loads(arguments.rows_file.read_text())
    rows, held_out = (
        [Row(RowKind.DOCUMENT, tuple(prompt), tuple(completion)) for prompt, completion in data[part]]
        for part in ("train", "held_out")
    )
    settings = TuneConfig(
        rank=arguments.rank,
        learning_rate=arguments.learning_rate,
        tokens_per_step=arguments.tokens_per_step,
        dev_checks=1,
    )
    torch.manual_seed(0)
    base = load_base(arguments.model)
    plan = plan_batches(rows, settings)
    run = {"forward": read_only, "ours": train_ours, "trl": train_trl, "transformers": train_transformers}
    seconds, steps, loss = run[arguments.worker](base, plan, settings, rows, held_out)
    return {
        "tokens_per_second": plan.tokens / seconds,
        "seconds": seconds,
        "steps": steps,
        "tokens": plan.tokens,
        "held_out_loss": loss,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def read_only(base, plan, _settings, _rows, held_out):
    """The base model over the same batches without a gradient."""
    import torch

    from tuner.loss import batch_loss

    started = time.monotonic()
    with torch.no_grad():
        for batch in plan.batches:
            batch_loss(base, base.model, batch)
    return time.monotonic() - started, len(plan.batches), held_out_loss(base, base.model, held_out)


def train_ours(base, plan, settings, _rows, held_out):
    from tuner.checkpoint import CheckpointStore
    from tuner.train import train

    losses = []

    def dev(model):
        losses.append(held_out_loss(base, model, held_out))
        return {"score": -losses[-1]}

    with tempfile.TemporaryDirectory() as folder:
        trained = train(base, plan, settings, dev, CheckpointStore(Path(folder) / "c"))
    return trained.seconds, trained.steps, losses[-1]


def train_trl(base, plan, settings, rows, held_out):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    mask = [[0] * len(row.prompt) + [1] * len(row.completion) for row in rows]
    data = Dataset.from_dict(
        {"input_ids": [[*row.prompt, *row.completion] for row in rows], "completion_mask": mask}
    )
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            **options(base, plan, settings, folder), max_length=None, completion_only_loss=True
        )
        trainer = in_our_batches(SFTTrainer, plan, rows)(
            base.model,
            config,
            train_dataset=data,
            processing_class=base.tokenizer,
            peft_config=lora(settings),
        )
        done = trainer.train()
    return done.metrics["train_runtime"], done.global_step, held_out_loss(base, trainer.model, held_out)


def train_transformers(base, plan, settings, rows, held_out):
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    data = Dataset.from_dict(
        {
            "input_ids": [[*row.prompt, *row.completion] for row in rows],
            "attention_mask": [[1] * len(row) for row in rows],
            "labels": [[-100] * len(row.prompt) + list(row.completion) for row in rows],
        }
    )
    base.tokenizer.padding_side = "right"
    model = get_peft_model(base.model, lora(settings))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingArguments(**options(base, plan, settings, folder))
        collator = DataCollatorForSeq2Seq(base.tokenizer, padding=True)
        trainer = in_our_batches(Trainer, plan, rows)
        done = trainer(model, config, train_dataset=data, data_collator=collator).train()
    return done.metrics["train_runtime"], done.global_step, held_out_loss(base, model, held_out)


def in_our_batches(trainer, plan, rows):
    """`trainer`, a class, with the batches of `plan`: rows of like length together, so that little is padding."""
    from torch.utils.data import DataLoader

    places = {id(row): place for place, row in enumerate(rows)}
    batches = [[places[id(row)] for row in batch] for batch in plan.batches]

    class InOurBatches(trainer):
        def get_train_dataloader(self):
            loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)
            return self.accelerator.prepare(loader)

    return InOurBatches


def options(base, plan, settings, folder):
    """As a careful user would set both peers: our optimiser and schedule."""
    import torch

    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": max(1, round(len(plan.batches) * settings.warmup)),
        "adam_beta2": 0.99,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip_norm,
        "bf16": base.dtype == torch.bfloat16,
        "use_cpu": base.device.type == "cpu",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def lora(settings):
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def held_out_loss(base, model, held_out):
    """Mean token loss of the completions, by the model's own forward, a row at a time."""
    import torch

    total = count = 0.0
    with torch.no_grad():
        for row in held_out:
            ids = torch.tensor([[*row.prompt, *row.completion]], device=base.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1].float()
            targets = torch.tensor(row.completion, device=base.device)
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            count += len(row.completion)
    return total / count


def report(measured: dict[str, list[dict[str, float]]]) -> None:
    print("| | tokens/s | held-out loss | steps | peak GiB |\n|---|---|---|---|---|")
    for name, runs in measured.items():
        speeds = sorted(run["tokens_per_second"] for run in runs)
        spread = f" ({speeds[0]:.0f} to {speeds[-1]:.0f})" if len(runs) > 1 else ""
        loss, peak = (statistics.median(run[key] for run in runs) for key in ("held_out_loss", "peak_gib"))
        print(
            f"| {name} | {statistics.median(speeds):.0f}{spread} | {loss:.3f} | {runs[0]['steps']:.0f} | {peak:.1f} |"
        )


def record(arguments: argparse.Namespace, measured: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    settings = {
        key: getattr(arguments, key) for key in ("model", "rows", "rank", "tokens_per_step", "learning_rate")
    }
    machine = {
        "processor": platform.processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    versions = {name: version(name) for name in LIBRARIES}
    return {"settings": settings, "machine": machine, "versions": versions, "runs": measured}


if __name__ == "__main__":
    main()
