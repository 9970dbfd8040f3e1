"""Refusals: what an export says of graphs that it made and does not keep."""

from collections.abc import Callable, Collection, Iterable

from crossrank._artifact.manifest import Refusal
from crossrank._errors import ModelError, ProofError, join_problems

from ._targets import Target, in_order

# Given the graphs that hold and the name of what the graphs were held against, or None where that is not known any
# more, says what to do about those that do not hold.
Advise = Callable[[Collection[Target], str | None], str]


def describe_failure(target: Target, error: ModelError) -> Refusal:
    """The record of a graph that could not be built or run, in one line that can be printed."""
    text = " ".join(str(error).split())
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return Refusal(*target, problems=(shown[:500],))


def refusal_error(subject: str, refused: Iterable[Refusal], advice: str) -> ProofError:
    """The error of an export that does not give what was asked for.

    Args:
        subject: What is not exported, with what it was held against.
        refused: At least one graph that does not hold.
        advice: What to do, one sentence.
    """
    problems = [f"{refusal.name}: {problem}" for refusal in refused for problem in refusal.problems]
    return ProofError(f"{join_problems(subject, problems)}\n{advice}")


def advise_export(proven: Collection[Target], reference: str | None) -> str:
    """What to do when `export_model` or ``export-model`` does not give what was asked for.

    Args:
        proven: The graphs that hold.
        reference: What the graphs were held against, None where that is not known any more.
    """
    if proven:
        names = ", ".join(" ".join(target) for target in in_order(proven))
        variants, precisions = (sorted(set(names)) for names in zip(*proven, strict=True))
        return (
            f"Within their bounds are {names}: variants={variants}, precisions={precisions} asks for these (in a shell "
            f"--variants {','.join(variants)} --precision {','.join(precisions)}); without options what holds is kept"
        )
    if reference is None:
        return "force=True (in a shell --force) tries again"
    if reference.startswith("transformers"):
        return "If all are off, tokenizer_config.json may contradict tokenizer.json, as with do_lower_case."
    return "If all are off, the checkpoint may not be what its config.json says."


def advise_model(precision: str, proven: Collection[Target], reference: str | None) -> str:
    """What to do when a model that is loaded by name or folder has no graph that holds, as `advise_export`.

    Args:
        precision: What was asked for, "auto" or one of `PRECISIONS`.
        proven: The graphs that hold.
        reference: As `advise_export` takes it.
    """
    others = sorted({made for _, made in proven} - {precision})
    if precision != "auto" and (others or precision != "fp32"):
        other = "fp32" if "fp32" in others or not others else others[0]  # which every device runs
        return f'Ask for another precision: precision="{other}" (in a shell --precision {other})'
    return advise_export((), reference or "numpy")
