"""The table that the fault tests print: fault, tried, survived, lost at most."""

from dataclasses import dataclass, field

import pytest


@dataclass
class Row:
    """One line of the table."""

    tried: int = 0
    survived: int = 0
    lost: int = 0
    unit: str = ""


@dataclass
class Table:
    """What was tried, by name."""

    rows: dict[str, Row] = field(default_factory=dict)

    def add(self, fault: str, survived: bool, lost: int = 0, unit: str = "") -> None:
        """Count one try."""
        row = self.rows.setdefault(fault, Row(unit=unit))
        row.tried += 1
        row.survived += survived
        row.lost = max(row.lost, lost)


TABLE = Table()


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
