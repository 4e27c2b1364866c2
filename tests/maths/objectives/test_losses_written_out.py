"""Every loss equals its formula written a second time, and its gradient the formula's differences."""

import pytest
from support.loss_groups import VARIANTS
from support.written_out_losses import deviation_from_formula


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_equal_the_formula_to_1e_6(variant, seed):
    deviation = deviation_from_formula(variant, seed)
    assert deviation.value < 1e-9
    assert deviation.gradient < 1e-6
