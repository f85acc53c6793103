"""Run by Alembic inside the connection and transaction that ``mibench.store.engine.migrate`` opened."""

from alembic import context

from mibench.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
