"""Two real processes with uneven shares of images give the scores of one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from convnext.evaluate.segmentation import SegmentationMetrics

NUM_IMAGES, NUM_CLASSES = 13, 5


def score(images):
    metrics = SegmentationMetrics([str(k) for k in range(NUM_CLASSES)])
    for image in images:
        random = np.random.default_rng(max(image, 0))
        truth = random.integers(-1, NUM_CLASSES, (20, 30 + image))
        said = np.where(random.random(truth.shape) < 0.7, np.maximum(truth, 0), image % NUM_CLASSES)
        metrics.update(said, truth, image)
    result = metrics.compute()
    return json.dumps([result.to_json(), [str(image) for image in result.images]])


def rank_main(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    # Rank 0 holds every image but two; rank 1 those, and padding.
    shares = ([i for i in range(NUM_IMAGES) if i not in (3, 8)], [8, 3, -1, -1])
    (folder / f"{rank}.json").write_text(score(shares[rank]))
    dist.destroy_process_group()


def test_two_processes_agree_with_one_to_the_last_bit(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    alone = score(range(NUM_IMAGES))
    assert (tmp_path / "0.json").read_text() == alone
    assert (tmp_path / "1.json").read_text() == alone


if __name__ == "__main__":
    rank_main(int(sys.argv[2]), Path(sys.argv[1]))
