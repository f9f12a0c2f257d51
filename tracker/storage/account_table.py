"""The table of accounts."""

from typing import ClassVar, Final

from tracker.storage.columns import TableRow, table_of, text_column, time_column


class AccountRow(TableRow, table=True):
    """What was noticed about an account at a provider; ``trouble`` is empty where it works."""

    __tablename__: ClassVar[str] = "accounts"

    provider: str = text_column(primary_key=True)
    account: str = text_column(primary_key=True)
    trouble: str = text_column(nullable=False)
    why: str = text_column(nullable=False)
    since: int = time_column(nullable=False)
    at: int = time_column(nullable=False)
    answered_at: int | None = time_column()
    paused_until: int | None = time_column()
    waited_at: int | None = time_column()


ACCOUNTS: Final = table_of(AccountRow)
