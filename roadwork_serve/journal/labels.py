"""Withdrawal of a label, for people who pressed the wrong key."""

from sqlalchemy import Connection, delete, select

from roadwork_serve.journal.tables import annotations


def withdraw_label(connection: Connection, prediction_id: str, author: str) -> bool:
    """Delete the latest label of a prediction if this author set it; an earlier one counts again.

    Returns False if there is none, or if somebody else has labelled the prediction since.
    """
    columns = annotations.c
    query = select(columns.id, columns.author).where(columns.prediction_id == prediction_id)
    latest = connection.execute(query.order_by(columns.id.desc()).limit(1)).first()
    if latest is None or latest.author != author:
        return False
    connection.execute(delete(annotations).where(columns.id == latest.id))
    return True
