"""The API does what its document says, for everything schemathesis thinks of: the short form of tests/support/contract.py."""

from __future__ import annotations

import pytest

from tests.support import contract
from tests.support.processes import Intray, NewIntray


@pytest.mark.timeout(300)  # some 1,500 requests
def test_no_answer_is_a_fault_or_undocumented(new_intray: NewIntray) -> None:
    one: Intray = new_intray()
    contract.start(one)
    done = contract.ask(one, "--max-examples", "3", "--phases", "coverage,fuzzing,stateful", "--seed", "1", "--no-color")
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}\n{one.output()[-2000:]}"
