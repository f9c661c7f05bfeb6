"""Command line with the commands demo, classify, mixed, train, predict, evaluate and diagnose.

Every command takes `--json FILE` for a machine-readable result (`diagnose` always writes one), and `--config FILE`,
a TOML file with a table per command whose values lie under the flags. Errors are one line, with exit code 2
(`--debug` shows where they arose). What ebmeta did not write is replaced only with `--overwrite`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ebmeta.app.errors import as_line, one_line_each
from ebmeta.app.files import Targets, configuration, finish, remove_old
from ebmeta.app.flags import Tasks
from ebmeta.app.mixed_files import mixed
from ebmeta.app.parser import Whole, app, check_files
from ebmeta.app.predicting import classify, predict

__all__ = ["app", "classify", "main", "mixed", "predict"]

COMMANDS = ("demo", "classify", "mixed", "train", "predict", "evaluate", "diagnose")


@app.command
def demo(
    output: Path = Path("demo"),
    *,
    seed: Whole = 0,
    num_iterations: Whole | None = None,
    progress: bool = True,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Sort a pile of digits by five labels, see what training on other classes adds, and learn from groups.

    Args:
        output: folder for the model, the predictions, the plots and the page that says whether to trust the model.
        seed: seed of the whole run.
        num_iterations: optimiser steps, for a shorter run.
        progress: show a progress bar.
        json: also write the result to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.app.demo import FILES, run
    from ebmeta.foundation.threads import one_thread
    from ebmeta.model.storage import model_files

    files = {output / name: kind for name, kind in FILES.items()} | model_files(output / "model")
    targets: Targets = [("OUTPUT", path, kind) for path, kind in files.items() if path.parent.is_dir()]
    check_files(targets, json, overwrite)
    options: dict[str, Any] = {} if num_iterations is None else {"num_iterations": num_iterations}
    with one_thread():
        finish(run(output, seed=seed, progress=progress, overwrite=overwrite, **options), json, overwrite)


@app.command
def train(
    data: Path,
    *,
    output: Path,
    validation: Path | None = None,
    tasks: Annotated[Tasks | None, Parameter(name="*")] = None,
    likelihood: str | None = None,
    random: str | None = None,
    num_steps: Whole | None = None,
    beta: float | None = None,
    profile: Whole = 0,
    num_iterations: Whole = 2000,
    batch_size: Whole = 16,
    objective: Literal["predictive", "gibbs", "evidence"] = "predictive",
    learning_rate: float = 2e-3,
    seed: Whole = 0,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = True,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Meta-train a model on a labelled file and save it.

    With `torchrun --nproc-per-node N -m ebmeta train ...` N processes share each batch of tasks; they reach the
    parameters of one, up to rounding, and continue each other's checkpoints.

    Args:
        data: npz, CSV or parquet file of training classes or groups.
        output: folder of the model.
        validation: file of other classes or groups, for early stopping.
        tasks: how rows become tasks.
        likelihood: with groups, what labels are: normal, normal_per_task, student_t, log_normal, gamma, beta, ordinal,
            bernoulli, binomial, poisson, negative_binomial, zero_inflated_poisson or zero_inflated_negative_binomial.
        random: with groups, columns of features whose weights vary over groups, as the intercept does, such as
            price,kind; groups share the weights of the others. All vary by default, and the intercept alone with "".
        num_steps: refinement steps.
        beta: weight of the divergence from the prior.
        profile: training classes, or groups of them, whose probabilities join the features; from about 16 it pays.
        num_iterations: optimiser steps.
        batch_size: tasks per step.
        objective: what training minimises. The evidence of groups, without refinement steps, validation or a
            checkpoint, is taken to its maximum by `ebmeta.fit_evidence`.
        learning_rate: peak learning rate.
        seed: seed of tasks, weights and draws.
        device: auto, cpu or cuda.
        checkpoint: file from which an interrupted run continues.
        progress: show a progress bar.
        json: also write the result to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.app.sources import sampler
    from ebmeta.app.train_files import at_maximum, model_for, outcome, varying
    from ebmeta.model.storage import model_files, save
    from ebmeta.training.loop import fit

    tasks = tasks or Tasks()
    targets: Targets = [("--output", path, kind) for path, kind in model_files(output).items()]
    targets += [] if checkpoint is None else [("--checkpoint", checkpoint, "checkpoint")]
    check_files(targets, json, overwrite, DATA=data, **{"--validation": validation})
    if likelihood is not None and tasks.groups is None:
        raise ValueError(f"--likelihood: expected --groups beside it, got {likelihood!r} for classes")
    if profile and tasks.groups is not None:
        raise ValueError(f"--profile: expected 0 for numbers of groups, got {profile}")
    first = os.environ.get("RANK", "0") == "0"  # of the processes of `torchrun` one writes and speaks
    processes = "auto" if "WORLD_SIZE" in os.environ else None
    say = print if first else lambda _: None
    source = sampler(data, tasks, seed, say=say)
    encoder, names = source.encoder, source.feature_names
    held_out = None if validation is None else sampler(validation, tasks, seed + 1, encoder, names, say)
    options: dict[str, Any] = {
        "seed": seed,
        "num_steps": num_steps,
        "beta": beta,
        "random": varying(data, source, random),
    }
    model = model_for(data, source, likelihood, profile, options)
    output.mkdir(parents=True, exist_ok=True)
    alone = held_out is None and checkpoint is None and not model.num_steps
    if objective == "evidence" and tasks.groups is not None and alone:
        result, line = at_maximum(model, source, num_iterations, seed, output)
    else:
        asked: dict[str, Any] = {"objective": objective, "learning_rate": learning_rate, "seed": seed, "device": device}
        asked |= {"checkpoint": checkpoint, "progress": progress, "distributed": processes}
        run = fit(model, source, num_iterations, batch_size, validation=held_out, **asked)
        result, line = outcome(run, output)
    if first:
        save(model, output, encoder, overwrite=overwrite)
        print(line)
        finish(result, json, overwrite)


@app.command
def evaluate(
    model: Path,
    data: Path,
    *,
    tasks: Annotated[Tasks | None, Parameter(name="*")] = None,
    num_tasks: Whole = 600,
    num_steps: Whole | None = None,
    seed: Whole = 0,
    plots: Path | None = None,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Score a model on tasks drawn from a labelled file, after every refinement step.

    Args:
        model: folder of the model.
        data: npz, CSV or parquet file of new classes or groups.
        tasks: how rows become tasks; a model of groups in named columns knows the columns. Numbers of classes and rows
            are those of training by default.
        num_tasks: number of tasks.
        num_steps: refinement steps; those of training by default.
        seed: seed of the tasks.
        plots: folder for a refinement plot and, for classes, a reliability diagram.
        json: also write the scores to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.app.sources import of_tasks, sampler, sized
    from ebmeta.model.storage import load_with_encoder
    from ebmeta.prediction.scores import evaluate as score, table

    names = [] if plots is None else ["refinement.png", "reliability.png"]
    pictures: Targets = [("--plots", Path(plots or "", name), "picture") for name in names]
    check_files(pictures, json, overwrite, MODEL=model, DATA=data)
    loaded, encoder = load_with_encoder(model)
    source = sampler(data, sized(tasks or Tasks(), loaded.task_sizes), seed, encoder, loaded.feature_names)
    print(of_tasks(source, loaded.task_sizes))
    scores = score(loaded, source, num_tasks, num_steps=num_steps)
    print(table(scores))
    if plots is not None:
        from ebmeta.plots.axes import save_figure
        from ebmeta.plots.scores import refinement, reliability

        drawn = {"refinement.png": refinement(scores, "nll")}
        drawn |= {"reliability.png": reliability(scores)} if "confidence" in scores else {}
        remove_old(pictures, [plots / name for name in drawn])
        for name, ax in drawn.items():
            save_figure(ax, plots / name, overwrite)
    by_step = {str(n): v.values.round(6).tolist() for n, v in scores.items() if v.dims == ("step",)}
    facts = {"num_tasks": num_tasks, "seed": seed, "tasks": source.task_sizes().config()}
    finish(facts | by_step, json, overwrite)


@app.command
def diagnose(
    model: Path,
    data: Path,
    *,
    output: Path = Path("diagnosis.html"),
    tasks: Annotated[Tasks | None, Parameter(name="*")] = None,
    num_tasks: Whole = 300,
    seed: Whole = 0,
    progress: bool = True,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Check whether a model can be trusted on tasks like those of a labelled file; write a page and its numbers.

    Args:
        model: folder of the model.
        data: npz, CSV or parquet file of classes or groups that training has not seen.
        output: the page, HTML; a JSON file of the same name has the numbers.
        tasks: how rows become tasks; a model of groups in named columns knows the columns. Numbers of classes and rows
            are those of training by default.
        num_tasks: number of tasks.
        seed: seed of tasks and draws.
        progress: show a progress bar.
        json: also write the numbers to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.app.sources import of_tasks, sampler, sized
    from ebmeta.diagnostics import diagnose as judge
    from ebmeta.model.storage import load_with_encoder

    if output.suffix != ".html":
        raise ValueError(f"{output}: expected a file of type .html, got {output.suffix or 'none'}")
    numbers = output.with_suffix(".json")
    json = None if json == numbers else json
    targets: Targets = [("--output", output, "page"), ("--output", numbers, "result")]
    check_files(targets, json, overwrite, MODEL=model, DATA=data)
    loaded, encoder = load_with_encoder(model)
    lines: list[str] = []  # for after the verdict
    tasks = sized(tasks or Tasks(), loaded.task_sizes)
    source = sampler(data, tasks, seed, encoder, loaded.feature_names, lines.append)
    lines.append(of_tasks(source, loaded.task_sizes))
    found = judge(loaded, source, num_tasks, seed=seed, progress=progress)
    found.save(output, overwrite)
    print(found.summary)
    print(*lines, sep="\n")
    print(f"{output}: {len(found.checks)} checks in {found.seconds:.0f} s; numbers in {numbers}")
    finish(found.to_dict(), json, overwrite)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    debug: bool = False,
) -> None:
    """Read the configuration, then run the command.

    Args:
        tokens: the command and its flags.
        config: TOML file with a table per command; its values lie under the flags.
        debug: show where in the code an error arose.
    """
    if config is not None:
        app.config = (configuration(config, COMMANDS),)
    app(tokens, exit_on_error=False, print_error=False)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        tokens: arguments; those of the process by default.

    Returns:
        The exit code: 0, 2 for an error of input or usage, 130 for an interrupt.
    """
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    app.config = ()  # that of an earlier call in this process
    try:
        with one_line_each():
            app.meta(arguments, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        where = "; run the same command again to continue from the checkpoint" if "--checkpoint" in arguments else ""
        print(f"ebmeta: interrupted{where}", file=sys.stderr)
        return 130
    except Exception as error:  # any error of the input; an unforeseen one is called unexpected
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"ebmeta: error: {as_line(error)}", file=sys.stderr)
        return 2
    return 0
