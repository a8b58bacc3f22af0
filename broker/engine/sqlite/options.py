"""`[engine.sqlite]` of the configuration. Floor 2."""

from pydantic import BaseModel, ConfigDict, Field


class SqliteOptions(BaseModel):
    """Sizes in bytes, times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_transaction: int = Field(8 << 20, ge=1 << 16, description="a commit takes at most so much (or one larger unit)")
    cache: int = Field(32 << 20, ge=0, description="recent messages kept in memory for consumers and stream readers")
    page_cache: int = Field(16 << 20, ge=1 << 20, description="SQLite's own page cache of the writer")
    checkpoint_pages: int = Field(4_000, ge=100, description="the WAL is moved into the file every so many pages")
    disk_free_limit: int = Field(256 << 20, ge=0, description="below this much free disk publishers are refused")
    ballast: int = Field(16 << 20, ge=0, description="a file to delete in an emergency, when the disk is full")
    dedup_days: float = Field(7.0, gt=0, description="message ids are remembered for at least so long")
    dedup_max: int = Field(20_000_000, ge=1_000, description="and at most about twice so many of them")
    publishers_max: int = Field(
        100_000, ge=1, description="beyond so many, ids of native publishers silent for an hour go"
    )
    check_limit: int = Field(4 << 30, ge=0, description="after an unclean stop, files up to this size are checked")
    settle_delay: float = Field(0.005, ge=0, description="settles that nobody awaits wait so long for a commit to ride")
    block_timeout: float = Field(
        5.0, ge=0, le=60, description="publishers wait so long for room in a queue with overflow = block"
    )
    fsync_delay: float = Field(0.0, ge=0, le=1, description="for benchmarks: seconds added to every commit")
