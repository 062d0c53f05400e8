"""Look inside a trained network: receptive field, feature diversity, feature maps."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from convnext.data import FileBatches, eval_transform, iter_files, num_workers
from convnext.data.config import DataConfig
from convnext.evaluate.cam import colormap, seen_image
from convnext.evaluate.diversity import diversity
from convnext.evaluate.receptive_field import contributions, high_contribution_areas, scaled
from convnext.models.backbone import Backbone
from convnext.report.layers import layer_figure
from convnext.report.maps import heat_map, map_grid
from convnext.run.folder import command_line, say_line, versions, write_text
from convnext.run.loading import data_config, load_encoder, pick_device
from convnext.run.scoring import progress
from convnext.weights.preprocessing import Preprocessing

__all__ = ["WHAT", "What", "analyse"]

What = Literal["receptive_field", "diversity", "maps"]
WHAT: tuple[What, ...] = ("receptive_field", "diversity", "maps")
MAP_IMAGES = 4


def analyse(
    targets: Sequence[str],
    data: str,
    out: Path,
    *,
    what: Sequence[What] = WHAT,
    num_images: int = 50,
    receptive_size: int = 1024,
    batch_size: int = 8,
    workers: int = -1,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> dict[str, Any]:
    """Analyse networks on a folder of images, labelled or not.

    Writes `analysis.json`, for each network `receptive_field.png` and `maps/*.png` in a folder of
    its own, and `diversity.svg` with a line for each network.

    Args:
        targets: Each what `load_encoder` takes; a head is not needed.
        data: Folder of images, or one image.
        out: Where pictures and numbers go.
        what: Which analyses.
        num_images: Images, evenly spaced in the folder; the first few are shown as maps.
        receptive_size: Side in pixels to which images are squashed for the receptive field; the
            published protocol takes 1024.
        batch_size: Images at a time; one for the receptive field.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        say: Where messages go.

    Returns:
        The content of `analysis.json`.

    Raises:
        ValueError: There is no image, or a network cannot be loaded or is not of this kind.
        OSError: Something cannot be read or written.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1")
    files = _chosen(data, num_images)
    out.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Any] = {}
    lines: dict[str, list[float]] = {}
    for target, name in zip(targets, _names(targets), strict=True):
        network, preprocessing = load_encoder(target, pick_device(device))
        one = _One(network, preprocessing, files, batch_size, workers)
        folder = out / name if len(targets) > 1 else out
        folder.mkdir(exist_ok=True)
        found: dict[str, Any] = {"weights": target}
        if "receptive_field" in what:
            found["receptive_field"] = one.receptive_field(receptive_size, folder, say)
        if "diversity" in what:
            layers = diversity(network, one.batches("feature diversity"))
            lines[name] = [layer.distance for layer in layers]
            found["diversity"] = [asdict(layer) for layer in layers]
            mean = sum(lines[name]) / len(lines[name])
            say(f"{name}: mean channel distance {mean:.3f} over {len(layers)} blocks")
        if "maps" in what:
            one.maps(folder / "maps")
            say(f"feature maps: {folder / 'maps'}")
        networks[name] = found
    if lines:
        title = "Feature diversity: mean pairwise cosine distance of expanded channels"
        figure = layer_figure(lines, title=title, y_title="distance")
        write_text(out / "diversity.svg", figure)
        say(f"figure: {out / 'diversity.svg'}")
    result = {
        "networks": networks,
        "data": data,
        "images": len(files),
        "versions": versions(),
        "command": command_line(),
    }
    write_text(out / "analysis.json", json.dumps(result, indent=2) + "\n")
    say(f"numbers: {out / 'analysis.json'}")
    return result


class _One:
    """One network on the chosen images."""

    def __init__(
        self,
        network: Backbone,
        preprocessing: Preprocessing,
        files: list[str],
        batch_size: int,
        workers: int,
    ) -> None:
        self._network, self._preprocessing, self._files = network, preprocessing, files
        self._batch_size, self._workers = batch_size, num_workers(workers)
        in_chans = network.config.in_chans
        self._config = data_config(preprocessing, in_chans, path="", workers=workers)

    def receptive_field(
        self, size: int, folder: Path, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Numbers of the receptive field; its picture goes to the folder."""
        squash = replace(self._config, image_size=size, crop_mode="squash", crop_pct=1.0)
        batches = self.batches("receptive field", squash, batch_size=1)
        contribution = contributions(self._network, batches)
        picture = heat_map(scaled(contribution).numpy(), colormap())
        picture.save(folder / "receptive_field.png")
        areas = high_contribution_areas(contribution)
        found: dict[str, Any] = {"size": size, "areas": {}}
        for threshold, area in areas.items():
            side, ratio = area or (None, None)
            found["areas"][f"{threshold:g}"] = {"side": side, "ratio": ratio}
            if area is not None:
                say(f"  {100 * threshold:g} % of the contribution: {side} px, r = {ratio:.3f}")
        say(f"receptive field: {folder / 'receptive_field.png'}")
        return found

    def maps(self, folder: Path) -> None:
        """The first channels of every stage, for a few images."""
        folder.mkdir(exist_ok=True)
        pre, network, number = self._preprocessing, self._network, 0
        for images in self.batches("feature maps", limit=MAP_IMAGES):
            for image in images:
                number += 1
                seen_image(image, pre.mean, pre.std).save(folder / f"{number:02d}_image.png")
                x = image[None]
                with torch.inference_mode():
                    x = network.stem(x)
                    for stage, module in enumerate(network.stages, 1):
                        x = module(x)
                        sheet = map_grid(x[0].double().cpu().numpy(), colormap())
                        sheet.save(folder / f"{number:02d}_stage{stage}.png")

    def batches(
        self,
        title: str,
        config: DataConfig | None = None,
        *,
        batch_size: int = 0,
        limit: int | None = None,
    ) -> Iterator[Tensor]:
        """The images on the network's device; unreadable ones are an error."""
        config = config or self._config
        loader = FileBatches(
            iter(self._files[:limit]),
            eval_transform(config),
            batch_size=batch_size or self._batch_size,
            channels=config.in_chans,
            workers=self._workers,
        )
        device = next(self._network.parameters()).device
        total = -(-len(self._files[:limit]) // (batch_size or self._batch_size))
        for batch in progress(loader, title, total=total):
            yield batch["image"].to(device)
        if loader.unreadable:
            raise ValueError(f"not an image: {loader.unreadable[0].reason}")


def _chosen(data: str, number: int) -> list[str]:
    """Evenly spaced files below a folder, in the order of their names."""
    files = list(iter_files([Path(data)]))
    if not files:
        raise ValueError(f"no image found in {data}")
    number = min(number, len(files))
    return [files[i * len(files) // number] for i in range(number)]


def _names(targets: Sequence[str]) -> list[str]:
    """A short name for each target, unlike the others'."""
    names: list[str] = []
    for target in targets:
        parts = [p for p in Path(target).parts if p not in ("/", "weights", "checkpoints")]
        name = parts[-1] if parts else "network"
        while name in names:
            name += "_"
        names.append(name)
    return names
