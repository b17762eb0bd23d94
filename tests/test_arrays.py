"""Tensors to NumPy and back."""

import numpy as np
import pytest
import torch

from zograd._arrays import array, tensor_like


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_array_shares_the_memory(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    numbers = array(tensor)
    with torch.no_grad():
        tensor[0] = 5
    assert numbers.tolist() == [5, 2]
    assert numbers.dtype == (np.float32 if dtype == torch.float32 else np.float64)


def test_half_precision_becomes_float32() -> None:
    assert array(torch.tensor([1.5], dtype=torch.bfloat16)).dtype == np.float32


def test_back_in_memory_and_dtype_of_its_own() -> None:
    numbers = np.array([1.0, 2.0])
    back = tensor_like(numbers, torch.zeros(1, dtype=torch.float32))
    same = tensor_like(numbers, torch.zeros(1, dtype=torch.float64))
    numbers[0] = 9
    assert (back.dtype, back.tolist(), same.tolist()) == (torch.float32, [1, 2], [1, 2])
    assert same.data_ptr() % 64 == 0
