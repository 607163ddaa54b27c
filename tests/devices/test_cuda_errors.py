"""CUDA's errors, and which of them lose a device: by their numbers, without a GPU."""

import pytest

pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)

from cupy.cuda.runtime import CUDARuntimeError

from app.devices.cuda import Gpu
from app.devices.cuda_driver import STICKY
from app.errors import DeviceError, DeviceLost


@pytest.mark.parametrize("status", sorted(STICKY))
def test_a_sticky_error_loses_the_device(status: int) -> None:
    """It becomes ours, with the device, what was being done, CUDA's words and its number; nothing is asked any more."""
    gpu = Gpu(3)
    error = gpu.lost_by(CUDARuntimeError(status), "copying")

    assert isinstance(error, DeviceLost)
    assert (error.device, error.facts["status"]) == ("cuda:3", status)
    assert error.message.startswith("cuda:3 is lost: copying: cuda")
    with pytest.raises(DeviceLost), gpu.current("asking for free memory"):
        raise AssertionError("it was asked")


@pytest.mark.parametrize("error", [CUDARuntimeError(2), CUDARuntimeError(46), CUDARuntimeError(1), OSError()], ids=str)
def test_other_errors_do_not(error: Exception) -> None:
    """Want of memory, a busy device, a wrong argument and a file's fault are of the moment."""
    gpu = Gpu(0)

    assert gpu.lost_by(error, "copying") is None
    assert gpu.loss.reason is None


def test_an_error_that_is_not_sticky_names_device_and_number() -> None:
    """It is a device error like others, and the device is there."""
    gpu = Gpu(10**6)  # which no machine has

    with pytest.raises(DeviceError, match="cuda:1000000: looking: cuda") as caught, gpu.current("looking"):
        pass

    assert not isinstance(caught.value, DeviceLost)
    assert isinstance(caught.value.facts["status"], int)
    assert gpu.loss.reason is None
