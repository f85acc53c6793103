"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LARGEST = "1.7976931348623157e308"


def _finite(table: str, column: str) -> sa.CheckConstraint:
    name = op.f(f"ck_{table}_{column}_finite")
    return sa.CheckConstraint(f"{column} BETWEEN -{_LARGEST} AND {_LARGEST}", name=name)


def _environment(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_environment")
    return sa.ForeignKeyConstraint(["environment"], ["environment.sha256"], name=name)


def upgrade() -> None:
    op.create_table(
        "environment",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_environment")),
    )
    op.create_table(
        "stage",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("plugin", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("track", sa.String(), nullable=False),
        sa.Column("track_version", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("started", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_stage")),
        sa.CheckConstraint("length(key) = 64", name=op.f("ck_stage_key_length")),
        sa.CheckConstraint("seconds >= 0", name=op.f("ck_stage_seconds_positive")),
        _finite("stage", "seconds"),
        _environment("stage"),
    )
    op.create_index(op.f("ix_stage_kind"), "stage", ["kind"])
    op.create_table(
        "stage_input",
        sa.Column("child", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("child", "role", name=op.f("pk_stage_input")),
        sa.ForeignKeyConstraint(["child"], ["stage.key"], name=op.f("fk_stage_input_child"), ondelete="CASCADE"),
    )
    op.create_index(op.f("ix_stage_input_parent"), "stage_input", ["parent"])
    op.create_table(
        "run",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("track", sa.String(), nullable=False),
        sa.Column("track_version", sa.Integer(), nullable=False),
        sa.Column("defense", sa.String(), nullable=False),
        sa.Column("defense_label", sa.String(), nullable=False),
        sa.Column("attack", sa.String(), nullable=False),
        sa.Column("attack_label", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_run")),
        sa.CheckConstraint("length(run) = 12", name=op.f("ck_run_run_length")),
        sa.CheckConstraint("status IN ('done', 'failed')", name=op.f("ck_run_status_known")),
        _environment("run"),
    )
    op.create_index(op.f("ix_run_track"), "run", ["track"])
    op.create_table(
        "metric",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("ci_low", sa.Double(), nullable=True),
        sa.Column("ci_high", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run", "metric", name=op.f("pk_metric")),
        sa.ForeignKeyConstraint(["run"], ["run.run"], name=op.f("fk_metric_run"), ondelete="CASCADE"),
        sa.CheckConstraint("(value IS NULL) = (reason IS NOT NULL)", name=op.f("ck_metric_value_or_reason")),
        sa.CheckConstraint("n >= 0", name=op.f("ck_metric_n_positive")),
        sa.CheckConstraint("ci_low <= ci_high", name=op.f("ck_metric_interval_order")),
        sa.CheckConstraint("(ci_low IS NULL) = (ci_high IS NULL)", name=op.f("ck_metric_interval_whole")),
        _finite("metric", "value"),
        _finite("metric", "ci_low"),
        _finite("metric", "ci_high"),
    )
    op.create_table(
        "metric_sample",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run", "metric", "label", name=op.f("pk_metric_sample")),
        sa.ForeignKeyConstraint(
            ["run", "metric"],
            ["metric.run", "metric.metric"],
            name=op.f("fk_metric_sample_metric"),
            ondelete="CASCADE",
        ),
        _finite("metric_sample", "value"),
    )
