"""Two real processes with uneven shares give the result of one."""

import json
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from convnext.evaluate import classification
from convnext.evaluate.classification import ClassificationMetrics
from convnext.evaluate.gather import all_gather_rows

NUM_IMAGES, NUM_CLASSES, KEPT = 203, 6, 64


def images():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(NUM_IMAGES, NUM_CLASSES, generator=generator)
    return logits, torch.randint(0, NUM_CLASSES, (NUM_IMAGES,), generator=generator)


def score(index):
    classification.MAX_KEPT_LOGITS = KEPT * NUM_CLASSES  # so that the sampling rule is exercised
    logits, labels = images()
    metrics = ClassificationMetrics(NUM_CLASSES)
    for rows in index.split(32):
        metrics.update(logits[rows], labels[rows], rows)
    return json.dumps(metrics.compute().to_json())


def rank_main(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    # Rank 0 holds 150 images, rank 1 the other 53 and padding.
    index = torch.arange(150) if rank == 0 else torch.cat([torch.arange(150, 203), -torch.ones(9)])
    (folder / f"{rank}.json").write_text(score(index.long()))
    empty_on_one = all_gather_rows(torch.full((3 * rank, 2), rank))
    assert empty_on_one.tolist() == [[1, 1]] * 3
    dist.destroy_process_group()


def test_two_processes_agree_with_one_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "MAX_KEPT_LOGITS", KEPT * NUM_CLASSES)
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    alone = score(torch.arange(NUM_IMAGES))
    assert (tmp_path / "0.json").read_text() == alone
    assert (tmp_path / "1.json").read_text() == alone
    fit = json.loads(alone)["temperature"]
    assert KEPT // 2 <= fit["num_fit"] + fit["num_measured"] <= KEPT


if __name__ == "__main__":
    rank_main(int(sys.argv[2]), Path(sys.argv[1]))
