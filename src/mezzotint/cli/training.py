"""The verb that makes a run: pretrain."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mezzotint.cli.app import Debug, Json, Quiet, app, complete_recipe, recipe_of, say
from mezzotint.recipe.reading import is_data_path, start_overrides
from mezzotint.recipe.schema import RecipeError, require_paths

if TYPE_CHECKING:
    from mezzotint.recipe.recipe import Plan
    from mezzotint.runs.settings import Export
    from mezzotint.train.budget import Fitted


_Slurm = Annotated[
    bool,
    typer.Option(
        "--slurm",
        help="Submit to SLURM: --slurm partition=gpu nodes=8 gpus_per_node=8 timeout_min=4320.",
    ),
]


@app.command(epilog="Example: `mezzotint pretrain photos/ --minutes 10 --out runs/photos`")
def pretrain(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=complete_recipe,
            metavar="[RECIPE|PATH] [KEY=VALUE]…",
            help="A recipe's name or file, or a folder or file of data, for which a recipe is "
            "chosen; and overrides such as run.epochs=20. Default: the demo.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run. Default: runs/NAME-DATE.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Fit the run to this time, evaluation and report included: epochs of a recipe, "
            "size and batch too for a PATH. Default: 10 for a PATH without a GPU.",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from a trained encoder, with its network: a run, an encoder directory, a "
            "folder of timm's hub layout, or a file of weights. See `init` in a recipe.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue from the newest good checkpoint in --out. `--resume auto` starts the "
            "run where there is none, so that one command serves for all tries of a job.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove an earlier run in --out first.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print data, recipe, steps, time of training and evaluation, and memory, within "
            "15 seconds; write nothing.",
        ),
    ] = False,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="With --dry-run, print the whole recipe too, as YAML.")
    ] = False,
    train_only: Annotated[
        bool, typer.Option("--train-only", help="Skip evaluation and report.")
    ] = False,
    slurm: _Slurm = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pretrain an encoder, evaluate it, and write its report."""
    from mezzotint.recipe.recipe import read_continued_plan, read_plan

    fitted, options, trial_s = None, dict[str, Any](), 0.0
    if slurm:
        from mezzotint.train.slurm import split_arguments

        arguments, options = split_arguments(arguments or ())
    if init is not None:
        arguments = _started(list(arguments or ()), init)
    if resume:
        _check_resume(out, minutes)
    auto = resume and "auto" in (arguments or ())
    # torchrun runs the same command again when a process has died.
    if out is not None and (auto or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))):
        arguments = [word for word in arguments or () if word != "auto"]
        _require_one_process(recipe_of(arguments)[0], minutes, several=True)
        plan, resume, left = read_continued_plan(out, *recipe_of(arguments))
        name, overwrite = recipe_of(arguments)[0], left or (overwrite and not resume)
    elif resume:
        name, plan = str(out), _resumed_plan(Path(str(out)), list(arguments or ()))
    else:
        name, overrides = recipe_of(arguments)
        overrides, trial_s, minutes = _trials(overrides, minutes, slurm=slurm)
        fitted = _fitted(name, overrides, minutes, slurm=slurm)
        # A bad recipe is refused here, before torch is imported.
        plan = fitted.plan if fitted else read_plan(name, overrides)
    if not slurm:  # a path may be on other machines
        for phase in plan.phases:
            require_paths(phase.config["data"])
    from mezzotint.train.rundir import default_directory

    folder = out or default_directory(name)
    mode = "json" if as_json else "quiet" if quiet else "bar"
    if dry_run:
        shown = fitted.recipe if fitted else name
        lines = _facts(fitted) if fitted and fitted.known else _preview(plan, shown)
        words = [*(arguments or ()), "--out", str(folder)] if slurm else []
        _print_facts([*lines, *_torchrun(words, options)], plan, mode, yaml=yaml)
        return
    if fitted:
        say(mode, "\n".join(fitted.lines()), {"chosen": fitted.lines()})
    plan = _chosen_strength(plan, trial_s, mode)
    if slurm:
        flags = {"resume": resume, "overwrite": overwrite, "train_only": train_only}
        _queue(plan, arguments or [], folder, flags | {"quiet": quiet, "as_json": as_json}, options)
        return
    from mezzotint import dist
    from mezzotint.cli.evaluation import evaluate_run
    from mezzotint.train.plan import pretrain_plan

    exports = _exports(plan)
    done = pretrain_plan(plan, folder, resume=resume, overwrite=overwrite, progress=mode)
    if not dist.launched_as_main():
        return
    if train_only:
        say(mode, f"run: {done}; encoder: {done}/encoder", {"trained": str(done)})
        return
    say(mode, f"encoder: {done}/encoder; evaluating it now", {"trained": str(done)})
    _export(done, exports, mode)
    evaluate_run(done, mode, limit_s=_limit(done, plan))


def _limit(run: Path, plan: "Plan") -> float:
    """Return the seconds that the evaluation after training may take, page included."""
    from mezzotint.runs.settings import Budget

    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    budget = Budget(**plan.phases[-1].config.get("budget", {}))
    return budget.seconds(float(environment.get("seconds") or 0.0))


def _torchrun(words: list[str], options: dict[str, Any]) -> list[str]:
    """Say how to run without SLURM what was asked for with it; nothing without `words`."""
    if not words:
        return []
    from mezzotint.train.slurm import torchrun_lines

    return torchrun_lines(words, options)


def _started(arguments: list[str], init: Path) -> list[str]:
    """Return the arguments with the overrides that start from an encoder, before all others."""
    names = [word for word in arguments if "=" not in word]
    return [*names, *start_overrides(init), *(word for word in arguments if "=" in word)]


def _exports(plan: "Plan") -> "Export | None":
    """Return what the recipe exports at the end, checked; `None` for nothing."""
    config = plan.phases[-1].config.get("export")
    if config is None:
        return None
    from mezzotint.export.exporting import check_exports
    from mezzotint.recipe.schema import OPTIONAL, construct

    settings: Export = construct(config, OPTIONAL["export"], {})
    check_exports(settings)
    return settings


def _export(run: Path, settings: "Export | None", mode: str) -> None:
    """Write the artifacts of a recipe, and say what became of each."""
    if settings is None:
        return
    from mezzotint.export.exporting import export_all

    for artifact, sentence in export_all(run, settings):
        say(mode, sentence, {"exported": artifact and str(artifact), "words": sentence})


def _check_resume(out: Path | None, minutes: float | None) -> None:
    """Refuse to resume without a run, or with another budget.

    Raises:
        RecipeError: with what to add or to leave out.
    """
    if out is None:
        raise RecipeError(
            "--resume needs the directory of the run. Add --out, such as --out runs/NAME --resume."
        )
    if minutes is not None:
        raise RecipeError(
            "--minutes chooses the epochs of a new run, and --resume keeps those of its recipe. "
            "Leave one of them out."
        )


def _resumed_plan(out: Path, arguments: list[str]) -> "Plan":
    """Read the recipe of a run that goes on, whose name or data may be given again.

    Raises:
        RecipeError: for another recipe or other data than those of the run.
    """
    from mezzotint.recipe.recipe import read_continued_plan, read_resumed_plan

    if not arguments or "=" in arguments[0]:
        return read_resumed_plan(out, arguments)
    name, overrides = recipe_of(arguments)
    plan = read_resumed_plan(out, overrides)
    if not is_data_path(name):
        return read_continued_plan(out, name, overrides)[0]
    if not any(_reads(phase.config["data"], Path(name)) for phase in plan.phases):
        raise RecipeError(
            f"`{out}` is not a run of the data `{name}`. Leave the path out, or choose another "
            "--out."
        )
    return plan


def _reads(data: Mapping[str, Any], path: Path) -> bool:
    """Whether a source has a path among its keys."""
    return any(
        _reads(value, path) if isinstance(value, Mapping)
        else isinstance(value, str) and Path(value).resolve() == path.resolve()
        for value in data.values()
    )  # fmt: skip


def _trials(
    overrides: list[str], minutes: float | None, *, slurm: bool
) -> tuple[list[str], float, float | None]:
    """Take `views.strength=auto` out of overrides, and a tenth of the minutes for its trials.

    Returns:
        The other overrides, the seconds of all trials (0 for none), and the minutes left.

    Raises:
        RecipeError: where several processes would choose.
    """
    left = [text for text in overrides if text != "views.strength=auto"]
    if len(left) == len(overrides):
        return overrides, 0.0, minutes
    if slurm or _processes() > 1:
        raise RecipeError(
            "`views.strength=auto` is chosen by one process on this machine, not for --slurm or "
            "torchrun. Set a number, such as views.strength=1."
        )
    return left, 6.0 * (minutes or 10.0), minutes and 0.9 * minutes


def _chosen_strength(plan: "Plan", seconds: float, mode: str) -> "Plan":
    """Choose the strength of the views in some seconds; in none, return the recipe as it is."""
    if not seconds:
        return plan
    from mezzotint.train.strength import with_strength

    choice = with_strength(plan, seconds)
    say(mode, choice.line(), {"strength": choice.strength, "measured": dict(choice.measured)})
    return choice.plan


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _require_one_process(name: str, minutes: float | None, *, several: bool) -> None:
    """Refuse a path or a budget where steps cannot be timed, or were timed before.

    Raises:
        RecipeError: with what to name instead.
    """
    if several and (is_data_path(name) or minutes is not None):
        what = f"`{name}` is data, and its recipe" if is_data_path(name) else "--minutes"
        raise RecipeError(
            f"{what} is fitted by one process on this machine, not for --slurm, torchrun or "
            "--resume auto. Name a recipe without --minutes, such as image/folder_simclr "
            "data.root=photos."
        )


def _fitted(
    name: str, overrides: list[str], minutes: float | None, *, slurm: bool
) -> "Fitted | None":
    """Choose a recipe for a path, or the epochs of a recipe; `None` for a recipe as it is."""
    is_path = is_data_path(name)
    if not is_path and minutes is None:
        return None
    _require_one_process(name, minutes, several=slurm or _processes() > 1)
    from mezzotint.train.budget import fit_path, fit_recipe

    if is_path or minutes is None:
        return fit_path(name, overrides, minutes)
    return fit_recipe(name, overrides, minutes)


def _facts(fitted: "Fitted") -> list[str]:
    """Return the six facts of a fitted recipe, then what was chosen."""
    from mezzotint.train.dry_run import facts

    return [*facts(fitted.known), *fitted.lines()]


def _preview(plan: "Plan", name: str) -> list[str]:
    """Return the six facts of a recipe, then all that is known of its phases."""
    from mezzotint.train.dry_run import dry_run

    first = plan.phases[0]
    if len(plan.phases) > 1 or first.load:
        from mezzotint.recipe.recipe import Recipe
        from mezzotint.train.plan import check_plan, load_key, load_parts

        recipe = Recipe.build(first.config)
        check_plan(plan, recipe)
        load_parts(recipe.method, first.load, [], load_key(plan, 0))
    return [*dry_run(first.config, name), *plan.summary()]


def _print_facts(lines: list[str], plan: "Plan", mode: str, *, yaml: bool) -> None:
    """Print the facts; with the recipe as YAML after them they are comments."""
    from mezzotint.recipe.reading import dump_yaml

    plain = json.loads(json.dumps(plan.phases[0].config if len(plan.phases) == 1 else plan.raw))
    if mode == "json":
        typer.echo(json.dumps({"facts": lines, **({"recipe": plain} if yaml else {})}))
        return
    if yaml:
        lines = [line if line.startswith("#") else f"# {line}" for line in lines]
        lines.append(dump_yaml(plain))
    typer.echo("\n".join(lines))


def _queue(
    plan: "Plan",
    arguments: list[str],
    out: Path,
    flags: dict[str, bool],
    options: dict[str, Any],
) -> None:
    from mezzotint.recipe.recipe import Recipe
    from mezzotint.train.plan import check_plan
    from mezzotint.train.slurm import Job, submit

    # A recipe that cannot be built is refused now, and not hours later in the queue.
    check_plan(plan, Recipe.build(plan.phases[0].config))
    job = Job(pretrain, arguments, out, flags)
    typer.echo(f"job {submit(job, options).job_id} is queued; logs: {job.logs}; run: {job.out}")
