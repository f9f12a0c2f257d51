"""The table of accounts."""

from typing import ClassVar, Final

from tracker.storage.columns import TableRow, table_of, text_column, time_column


class AccountRow(TableRow, table=True):
    """The state of an account at a provider. ``trouble`` is empty if there is no problem."""

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
