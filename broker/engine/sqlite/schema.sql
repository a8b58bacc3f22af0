-- The one file. Version 2, the first that is kept. To change it: add migrations/NNN_what.sql, change this file to the sum, raise VERSION
-- in connection.py, and test that both ways lead to the same schema.

-- What is true of the whole log: epoch, next_offset, next_revision.
CREATE TABLE state (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

-- Topics by small number. pruned_to: the highest offset of this topic that retention has removed.
CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, pruned_to INTEGER NOT NULL DEFAULT 0) STRICT;

-- The log, packed by chunk.py: runs of up to 64 neighbouring messages, none over the border of a page. head: all about
-- them but bodies, so that headers are read without those. Appends only; no second index. first: the lowest offset that
-- was ever in it. What holds an offset is the chunk with the greatest first up to it.
CREATE TABLE chunk (first INTEGER PRIMARY KEY, head BLOB NOT NULL, bodies BLOB NOT NULL) STRICT;

-- The directory of a sealed page of 65,536 offsets: msgpack {topic: [roaring bitmap of low 16 bits, bytes of bodies]}.
-- special: some message of the page has key, priority or expiry.
CREATE TABLE page (
    page INTEGER PRIMARY KEY, first_at INTEGER NOT NULL, last_at INTEGER NOT NULL, special INTEGER NOT NULL,
    directory BLOB NOT NULL
) STRICT;

CREATE TABLE subscription (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A filter holds for offsets above since and up to until (NULL: for good).
CREATE TABLE filter (
    subscription INTEGER NOT NULL, filter TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER,
    PRIMARY KEY (subscription, filter, since)
) STRICT, WITHOUT ROWID;

-- Everything up to the floor is settled (queue) or committed (stream).
CREATE TABLE progress (subscription INTEGER PRIMARY KEY, floor INTEGER NOT NULL) STRICT;

-- What is settled above the floor, by page: roaring bitmaps of the low 16 bits.
CREATE TABLE settled (
    subscription INTEGER NOT NULL, page INTEGER NOT NULL, offsets BLOB NOT NULL, PRIMARY KEY (subscription, page)
) STRICT, WITHOUT ROWID;

-- From the second delivery on: msgpack [attempts, deliveries, due, history].
CREATE TABLE redelivery (
    subscription INTEGER NOT NULL, offset INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (subscription, offset)
) STRICT, WITHOUT ROWID;

-- The last sequence answered to each publisher; refused: msgpack [[sequence, count, code]…] of the recent refusals.
CREATE TABLE publisher (
    id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, at INTEGER NOT NULL, refused BLOB
) STRICT, WITHOUT ROWID;

-- Message ids that callers supplied, in two generations: when the young one is full or old it becomes the old one,
-- and the old one is dropped whole. offset -1: the message still waits in the schedule.
CREATE TABLE dedup_young (
    id TEXT NOT NULL, topic INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (id, topic)
) STRICT, WITHOUT ROWID;
CREATE TABLE dedup_old (
    id TEXT NOT NULL, topic INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (id, topic)
) STRICT, WITHOUT ROWID;

-- Messages that wait outside the log for their time (unix ms).
CREATE TABLE schedule (
    id TEXT NOT NULL, topic TEXT NOT NULL, due INTEGER NOT NULL, meta BLOB, body BLOB NOT NULL, PRIMARY KEY (id, topic)
) STRICT;
CREATE INDEX schedule_due ON schedule (due);

CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID;
