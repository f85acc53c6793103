"""Work shared among forked processes gives what a loop gives."""

import os

import pytest

from mibench.publish import parallel


@pytest.mark.parametrize("count", [0, 5, 500])
def test_results_come_in_order(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    factor = 7  # a closure: nothing of it is pickled
    found = parallel.on_all_cores(lambda n: (factor * n, os.getpid()), range(count))
    assert [value for value, _ in found] == [7 * n for n in range(count)]
    processes = {process for _, process in found}
    assert (os.getpid() in processes) == (0 < count < parallel.FEWEST)


def test_an_exception_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)

    def fail(n: int) -> int:
        if n == 150:
            raise ValueError("number 150")
        return n

    with pytest.raises(ValueError, match="number 150"):
        parallel.on_all_cores(fail, range(300))
