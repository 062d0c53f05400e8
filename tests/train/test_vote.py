"""A vote that is still under way ends before its process does."""

import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from convnext.train.parallel import Vote, World

LATE = 1.0  # seconds until the second process votes


def rank_main(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    vote = Vote(World(rank=rank, size=2))
    dist.barrier()
    if rank == 1:
        time.sleep(LATE)
    start = time.perf_counter()
    vote.any(0)
    voted = time.perf_counter() - start
    vote.close()
    closed = time.perf_counter() - start
    vote.close()  # nothing is left to wait for
    (folder / str(rank)).write_text(f"{voted} {closed}")
    dist.destroy_process_group()


def test_close_waits_for_the_last_vote_of_all_processes(tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path), str(rank)]) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    voted, closed = map(float, (tmp_path / "0").read_text().split())
    assert voted < LATE / 2 < closed


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank_main(int(sys.argv[2]), Path(sys.argv[1]))
