"""What the fault tests have tried: fault, tried, survived, lost at most."""

from dataclasses import dataclass, field


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
