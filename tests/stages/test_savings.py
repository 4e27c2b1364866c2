"""What a selection saves: the report's figures, what it says of them, and that the page fits the terminal."""

import io
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from prefpipe.artifacts.run_record import RunRecord
from prefpipe.artifacts.schemas import GROUPS
from prefpipe.artifacts.store import Artifact, Shard, open_output
from prefpipe.errors import InputError
from prefpipe.maths.compute.training_compute import ModelShape, Plan, Recipe
from prefpipe.pages.savings import flop_unit, savings_page
from prefpipe.stages.savings import Machine, TrainedModel, basis_of_groups, basis_of_plan, savings

TALLY = {
    "n_prompts": 3,
    "n_groups": 2,
    "n_candidates": 12,
    "n_usable": 6,
    "n_kept": 4,
    "usable_prompt_tokens": 80,
    "usable_response_tokens": 30,
    "usable_squared_tokens": 2150,
    "kept_prompt_tokens": 60,
    "kept_response_tokens": 20,
    "kept_squared_tokens": 1700,
    "group_prompt_tokens": 30,
    "usable_estimated": 0,
    "kept_estimated": 0,
}
PLAN = Plan(
    n_prompts=1000, n=32, k=7, positives=1, mean_prompt_tokens=150.0, mean_response_tokens=350.0
)
MODEL = TrainedModel("some/model", ModelShape(7e9, 5e8, 262144), 8_030_000_000, 8_030_000_000)
SIZE = TrainedModel("8B", ModelShape(8e9), 8_000_000_000, 8_000_000_000)
MACHINE = Machine("NVIDIA H100 SXM", 989.5, "bf16", 0.4, price_per_hour=2.5)


def groups_of(folder: Path, *tallies: dict, n_parts: int | None = None) -> Artifact:
    """Groups without rows whose parts carry these sums."""
    count = n_parts or len(tallies)
    record = RunRecord(
        stage="select", schema=GROUPS.tag, n_parts=count, identity={"stage": "select"}
    )
    output = open_output(folder, record, shard=Shard(), overwrite=False)
    for index, tally in enumerate(tallies):
        output.write(
            index,
            pa.Table.from_pylist([], schema=GROUPS.arrow()),
            counts={},
            parents={},
            tally=tally,
        )
    return output


def page_of(found: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    for item in savings_page(found, width=width):
        console.print(item)
    return console.file.getvalue()


def test_the_sums_of_all_parts_are_added(tmp_path: Path) -> None:
    basis = basis_of_groups(groups_of(tmp_path / "groups", TALLY, TALLY), shared_prompt=False)
    found = savings(basis, TrainedModel("m", ModelShape(100, 10, 4), 110, 110), Recipe(), MACHINE)
    assert found["pool"]["n_tokens"] == 220
    assert found["pool"]["flop"] == 3 * (2 * 100 * 220 + 2 * 10 * 60 + 4 * 4300)
    assert found["kept"]["flop"] == 3 * (2 * 100 * 160 + 2 * 10 * 40 + 4 * 3400)
    assert found["saved"]["flop"] == found["pool"]["flop"] - found["kept"]["flop"]
    assert found["saved_share"] == pytest.approx(found["saved"]["flop"] / found["pool"]["flop"])
    assert (
        found["pool"]["n_prompts"],
        found["pool"]["n_responses"],
        found["kept"]["n_responses"],
    ) == (4, 12, 8)
    assert found["notes"] == [
        "the full pool is every usable candidate of the prompts that have a group",
        "2 prompts without a group are counted on neither side",
    ]


def test_hours_and_cost_by_hand() -> None:
    """1000 x 32 x 500 tokens on 8B: 6 x 8e9 x 1.6e7 = 7.68e17 FLOP."""
    found = savings(basis_of_plan(PLAN, shared_prompt=False), SIZE, Recipe(), MACHINE)
    assert found["pool"]["flop"] == pytest.approx(7.68e17)
    assert found["pool"]["gpu_hours"] == pytest.approx(7.68e17 / (989.5e12 * 0.4 * 3600))
    assert found["pool"]["cost"] == pytest.approx(2.5 * found["pool"]["gpu_hours"])
    assert found["saved_share"] == pytest.approx(0.75)


def test_without_a_price_there_is_no_cost() -> None:
    found = savings(
        basis_of_plan(PLAN, shared_prompt=False),
        SIZE,
        Recipe(),
        MACHINE._replace(price_per_hour=None),
    )
    assert {found[side]["cost"] for side in ("pool", "kept", "saved")} == {None}
    assert "cost" not in page_of(found)


def test_savings_notes_estimated_lengths(tmp_path: Path) -> None:
    tally = TALLY | {"usable_estimated": 3, "kept_estimated": 1}
    basis = basis_of_groups(groups_of(tmp_path / "groups", tally), shared_prompt=False)
    told = page_of(savings(basis, SIZE, Recipe(), MACHINE), 200)
    assert (
        "3 of 6 usable candidates, 1 of 4 kept ones, have no token counts: their tokens are estimated from characters\n"
    ) in told


def test_savings_notes_missing_parts(tmp_path: Path) -> None:
    basis = basis_of_groups(groups_of(tmp_path / "groups", TALLY, n_parts=4), shared_prompt=False)
    assert "these figures cover the 1 of 4 parts that are on disk" in basis.notes
    assert basis.source["n_parts_present"] == 1


@pytest.mark.parametrize(
    ("tallies", "message", "hint"),
    [
        ([], "has no parts yet", "prefpipe status"),
        ([{}], "has no token sums in its parts", "--overwrite"),
        (
            [TALLY | {"n_groups": 0, "n_usable": 0, "n_kept": 0}],
            "has a group: there is nothing to train on",
            "prefpipe inspect",
        ),
    ],
)
def test_savings_refuses_what_cannot_be_counted(
    tmp_path: Path, tallies: list, message: str, hint: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        basis_of_groups(groups_of(tmp_path / "groups", *tallies, n_parts=1), shared_prompt=False)
    assert hint in (caught.value.hint or "")


def test_the_page_has_every_figure_and_assumption() -> None:
    page = page_of(savings(basis_of_plan(PLAN, shared_prompt=False), SIZE, Recipe(), MACHINE), 200)
    lines = [line.split() for line in page.splitlines()]
    assert ["prompts", "1,000", "1,000", "0"] in lines
    assert ["responses", "32,000", "8,000", "24,000", "75.0%"] in lines
    assert ["tokens", "16,000,000", "4,000,000", "12,000,000", "75.0%"] in lines
    assert ["PFLOP", "768.00", "192.00", "576.00", "75.0%"] in lines
    assert ["GPU-hours", "0.539", "0.135", "0.404", "75.0%"] in lines
    assert ["cost", "1.35", "0.337", "1.01", "75.0%"] in lines
    assert page.startswith(
        "1,000 prompts x 32 candidates, 1 positive and 7 negative kept; 150 + 350 tokens\n"
    )
    assert (
        "assumed: 1 epoch of 3 x forward, prompts computed once per response; NVIDIA H100 SXM, 989.5 TFLOP/s dense bf16"
        in page
    )
    assert "x mfu 0.4, 2.5 per hour" in page
    assert "no attention term: a size does not say how wide it is" in page
    assert (
        "an estimate before any run: every prompt gets a group, every candidate is usable and of mean length"
        in page
    )


def test_the_page_says_which_formula_was_taken() -> None:
    recipe = Recipe(epochs=3, gradient_checkpointing=True, lora=True, reference=True)
    machine = Machine("another GPU", 500.0, None, 0.5)
    page = page_of(savings(basis_of_plan(PLAN, shared_prompt=True), MODEL, recipe, machine), 300)
    assert (
        "assumed: 3 epochs of 2 x forward (LoRA: no gradient of frozen weights) + 1 x forward (gradient checkpointing) + "
        "1 x forward in all (reference), prompts computed once per group; another GPU, 500 TFLOP/s x mfu 0.5\n"
    ) in page
    assert "tokens per pass" in page
    assert (
        "model: some/model, 8.03B parameters; 7B multiplied with every token, 500M (output projection) with response tokens, "
        "attention by (prompt + response)^2\n"
    ) in page


def test_page_names_active_parameters_and_notes_of_the_model() -> None:
    model = TrainedModel(
        "moe", ModelShape(3e9, 1e8), 46_000_000_000, 13_000_000_000, ("2 of 8 experts are counted",)
    )
    page = page_of(savings(basis_of_plan(PLAN, shared_prompt=False), model, Recipe(), MACHINE), 200)
    assert "46B parameters, 13B of them for one token; 3B multiplied with every token" in page
    assert "attention by" not in page
    assert "2 of 8 experts are counted" in page


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_page_fits_the_terminal(width: int) -> None:
    large = PLAN._replace(n_prompts=1_000_000, n=64)
    found = savings(
        basis_of_plan(large, shared_prompt=False), MODEL, Recipe(reference=True), MACHINE
    )
    assert all(len(line) <= width for line in page_of(found, width).splitlines())


def test_page_shows_hostile_name_as_signs(tmp_path: Path) -> None:
    found = savings(
        basis_of_plan(PLAN, shared_prompt=False),
        SIZE._replace(name="\x1b[31m[bold]"),
        Recipe(),
        MACHINE,
    )
    assert "\x1b" not in page_of(found)
    assert "␛[31m[bold]" in page_of(found)


@pytest.mark.parametrize(
    ("flop", "unit"),
    [
        (0, "MFLOP"),
        (5e5, "MFLOP"),
        (2e9, "GFLOP"),
        (1e15, "PFLOP"),
        (9.99e17, "PFLOP"),
        (1e18, "EFLOP"),
        (1e25, "ZFLOP"),
    ],
)
def test_units_follow_the_size(flop: float, unit: str) -> None:
    assert flop_unit(flop)[0] == unit
