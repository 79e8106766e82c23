"""Runs suites, on a CPU each of their cases in a process of its own."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vit_jax.benchmark import goals, race, results, suites
from vit_jax.benchmark.apart import Failed, run_apart
from vit_jax.benchmark.race import Case
from vit_jax.models import get_model


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the cases have in common.

    Attributes:
        model: name of the one that is timed; None for those of the suites.
        batch_size: images per call, of that model; None: see `suites.of_models`.
        image_size: side of its images; None likewise.
        dtype: compute type; None: float32 on a CPU and bfloat16 elsewhere.
        seconds: about how long to time each.
        alone: whether to leave out the others.
        compilation_cache: folder for compiled programs; "" for none.
        on_cpu: whether it is a CPU that computes.
    """

    model: str | None
    batch_size: int | None
    image_size: int | None
    dtype: str | None
    seconds: float
    alone: bool
    compilation_cache: str
    on_cpu: bool

    def record(self, path: str) -> results.Record:
        """The file for the figures, or the machine's in a folder; see `results.Record`."""
        dtype = self.dtype or ("float32" if self.on_cpu else "bfloat16")
        return results.Record(results.file_of(path), {"dtype": dtype, "alone": self.alone})

    def cases(self, names: Sequence[str]) -> Iterator[tuple[str, Case]]:
        """Makes the cases of the named suites, or, if there are none, the default ones.

        Those are of all suites, or of a CPU the short set. On a CPU that of the libraries' products
        comes before others, unless ours is alone.

        Yields:
            Suite and case.
        """
        is_short = self.on_cpu and not names and self.model is None
        wanted = [name for name in names or self._default_suites() if name != suites.PRODUCT]
        if suites.PRODUCT in names or (self.on_cpu and not self.alone):
            wanted.insert(0, suites.PRODUCT)
        for suite in wanted:
            for case in self.cases_of(suite):
                if not is_short or f"{suite}: {case.name}" in suites.SHORT:
                    yield suite, case

    def _default_suites(self) -> list[str]:
        if self.model is None:
            return [*suites.OF_MODELS, *suites.OTHERS]
        restores = get_model(self.model).task == "restore"
        return ["restore" if restores else "inference", "train"]

    def cases_of(self, suite: str) -> Iterator[Case]:
        """Makes all cases of a suite."""
        if suite in suites.OTHERS:
            yield from suites.OTHERS[suite]()
        else:
            yield from suites.of_models(
                suite, self.model, self.batch_size, self.image_size, self.dtype
            )

    def goals(self, names: Sequence[str], ran: Mapping[str, Any]) -> dict[str, Any]:
        """The goals of cases that ran, and besides those of the named suites, or all of them."""
        known = goals.ON_CPU if self.on_cpu else goals.ON_ACCELERATOR

        def is_wanted(case: str) -> bool:
            of_suite = not names or case.partition(":")[0] in names
            return case in ran or (self.model is None and of_suite)

        return {case: of_case for case, of_case in known.items() if is_wanted(case)}

    def try_here(self, case: Case) -> dict[str, Any]:
        """Runs a case; returns what `results.measured` does."""
        return results.measured(race.run(case, self.seconds, self.alone))

    def try_choice(self, suite: str, name: str) -> dict[str, Any]:
        """Runs the case of a suite that has a name."""
        (case,) = [case for case in self.cases_of(suite) if case.name == name]
        return self.try_here(case)

    def try_apart(self, suite: str, name: str) -> dict[str, Any]:
        """Does so in a process of its own; an `error` is what went wrong there."""
        fields = dataclasses.asdict(self)
        del fields["on_cpu"]
        given = [f"--{key}={value}" for key, value in fields.items() if value is not None]
        try:
            return run_apart([suite, *given, f"--choice={json.dumps(name)}"])
        except Failed as failed:
            return {"error": str(failed)}


def run(
    names: Sequence[str],
    settings: Settings,
    record: results.Record | None,
    report: Callable[[str, list[dict[str, Any]]], None],
) -> dict[str, Any]:
    """Runs the cases of suites.

    Args:
        names: of the suites; see `Settings.cases`.
        settings: of the cases.
        record: takes what is done, one after the other.
        report: is called with the name of each case, and its rows.

    Returns:
        By case what `results.measured` says of it, or an `error`.
    """
    ran: dict[str, Any] = {}
    for suite, case in list(settings.cases(names)):  # mistakes come before what takes long
        name = f"{suite}: {case.name}"
        # A process of its own is for the memory that libraries keep, which makes those that come
        # after others faster; a TPU is one process's.
        apart = settings.on_cpu
        ran[name] = settings.try_apart(suite, case.name) if apart else settings.try_here(case)
        if record is not None:
            record.put(name, ran[name])
        report(name, ran[name].get("rows", []))
    return ran
