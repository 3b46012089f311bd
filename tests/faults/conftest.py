"""The table that the fault tests print in the end."""

import pytest
from fault_table import TABLE, Table


@pytest.fixture(scope="session")
def table() -> Table:
    return TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TABLE.rows:
        return
    terminalreporter.section("faults")
    terminalreporter.line(f"{'fault':52} {'tried':>6} {'survived':>9}  lost at most")
    for fault, row in TABLE.rows.items():
        lost = f"{row.lost} {row.unit}" if row.unit else "nothing"
        terminalreporter.line(f"{fault:52} {row.tried:6} {row.survived:9}  {lost}")
