"""The pinned sets agree with the ranges in pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

SETS = {
    "constraints.txt": ["hub-datasets", "dev", "quickstart"],
    "constraints-vllm.txt": ["vllm", "train", "embed", "judge"],
    # by hand, and without what only training needs
    "requirements-vllm-cpu.txt": [],
}
TRIMMED = "requirements-vllm-cpu.txt"


def ranges(extras):
    """The packages of the core and of some extras, and of the extras that those name."""
    found = {}
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    for requirement in map(Requirement, lines):
        if requirement.name == "prefpipe":
            found |= ranges(sorted(requirement.extras))
        else:
            found[canonicalize_name(requirement.name)] = requirement.specifier
    return found


def pins(name):
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, version = line.split("==")
            package = canonicalize_name(package)
            assert package not in found, f"{name} pins {package} twice"
            found[package] = Version(version)
    return found


@pytest.mark.parametrize("name", SETS)
def test_pins_lie_inside_the_ranges(name):
    pinned = pins(name)
    for package, allowed in ranges(SETS[name]).items():
        if package in pinned:
            assert pinned[package] in allowed, f"{name}: {package} {pinned[package]}"
        else:
            assert name == TRIMMED, f"{name} has no pin for {package}"


def test_the_vllm_sets_have_a_vllm_that_prefpipe_takes():
    from prefpipe.backends.generators.vllm_support import SUPPORTED

    (requirement,) = (Requirement(line) for line in EXTRAS["vllm"])
    assert requirement.specifier == SpecifierSet(SUPPORTED)
    assert pins("constraints-vllm.txt")["vllm"] in requirement.specifier
    assert pins(TRIMMED)["vllm-cpu"] in requirement.specifier


def test_the_vllm_set_is_one_that_vllm_0_33_takes():
    """Its own pins (Requires-Dist of vllm 0.33.0), which constraints.txt does not meet."""
    pinned = pins("constraints-vllm.txt")
    assert pinned["vllm"] == Version("0.33.0"), "look at the new release's pins"
    for line in ("transformers>=5.16.1,<5.21", "numba==0.65.0", "torch==2.14.0"):
        requirement = Requirement(line)
        assert pinned[requirement.name] in requirement.specifier
        assert pins("constraints.txt")[requirement.name] not in requirement.specifier
