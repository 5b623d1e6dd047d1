"""The jobs folder, without a service around it."""

from __future__ import annotations

from pathlib import Path

from qwen_rerank_plugins.service.jobs.records import Job, JobSpec, new_id
from qwen_rerank_plugins.service.jobs.store import Store


def test_starting_over_deletes_result_journal_and_rejected_rows_and_keeps_the_upload(tmp_path: Path) -> None:
    store = Store(tmp_path)
    job = Job(new_id(), "", JobSpec("a.csv", "csv", "csv"), 0)
    file = store.begin(job)
    file.write(b"query,document\n")
    store.commit(job, file)
    for path in (store.result_path(job), store.journal_path(job), store.rejected_path(job)):
        path.write_bytes(b"of the first run")
    store.start_over(job)
    assert {path.name for path in (tmp_path / job.id).iterdir()} == {"job.json", "input.csv"}
    assert store.input_path(job).read_bytes() == b"query,document\n"
    store.close()
