"""Encode a video into a bundle, as one list of steps.

Steps work in `<bundle>.partial`; the finished bundle is moved from there. A file that exists there, of the
same video and options, is not made again: an interrupted encoding continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.files import check_writable, write_text
from edgedeploy.core.spec import Artifact
from edgedeploy.encode.clip import Clip, open_clip_source, read_clip
from edgedeploy.encode.measure import Errors, bicubic, measure, restoring
from edgedeploy.encode.networks import Patches, export, train
from edgedeploy.encode.options import EncodeOptions
from edgedeploy.encode.precision import store_models
from edgedeploy.pipeline import Monitor, Stage
from edgedeploy.stdo.bundle import Bundle, open_bundle, stored_file, write_chunks
from edgedeploy.stdo.chunks import Chunks, joint_sample, split_by_score
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.manifest import Manifest, Quality, StoredModel, decibel, write_manifest
from edgedeploy.stdo.patches import PatchGrid, Pixels
from edgedeploy.stdo.restorer import FRAME, INDEX, RESTORED, Networks, Restorer

KEY = "key"


def encode(
    source: Path, out: Path, options: EncodeOptions, monitor: Monitor[Stage], *, force: bool = False
) -> Bundle:
    """Encode a video into the bundle `out`, a folder.

    Raises UsageError for a file that is no video and, without `force`, for an `out` that is not empty and a
    `.partial` of another encoding; OutputError for a place that is not writable.
    """
    open_clip_source(source).close()
    out, partial = Path(out), Path(out).with_name(f"{Path(out).name}.partial")
    check_writable(partial / KEY)
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already", "choose another place with -o, or replace it with --force")
    _enter(partial, options.key(source), force)
    work = _Encoding(source, options, partial, monitor)
    _replace(out, work.bundle(), partial)
    return open_bundle(out)


@dataclass
class _Encoding:
    """One encoding in its folder."""

    source: Path
    options: EncodeOptions
    folder: Path
    monitor: Monitor[Stage]

    def bundle(self) -> Path:
        """Run all steps; returns the folder of the finished bundle."""
        options, monitor = self.options, self.monitor
        with monitor.stage("shrink and encode the video") as stage:
            clip = read_clip(self.source, options, self.folder, stage.progress)
        if clip.silent:
            monitor.note(f"the bundle has no sound: {clip.silent}")
        height, width = clip.low.shape[1:3]
        patch = (min(options.patch[0], height), min(options.patch[1], width))
        # As many patches as the requested size gives, but all of one size.
        rows, columns = (-(-side // part) for side, part in zip((height, width), patch, strict=True))
        grid = HaloGrid(PatchGrid.divide(height, width, rows, columns), options.surroundings)
        with monitor.stage("measure bicubic interpolation") as stage:
            floor = measure(clip, grid.grid, bicubic(clip), progress=stage.progress)
            stage.summary = f"{floor.psnr:.2f} dB"
        models, chunks, general = self._networks(clip, grid)
        folder = self.folder / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        precision, models = store_models(models, clip, grid, chunks, options, folder)
        shutil.copyfile(clip.video, folder / clip.video.name)
        if len(models) > 1:
            write_chunks(folder / "chunks.bin", chunks)
        manifest = Manifest(
            version=1,
            network=options.model,
            scale=clip.scale,
            width=clip.high.shape[2],
            height=clip.high.shape[1],
            low_width=width,
            low_height=height,
            fps=clip.fps,
            frames=len(clip.low),
            patch_height=grid.grid.patch_height,
            patch_width=grid.grid.patch_width,
            halo=grid.halo,
            precision=precision,
            video=stored_file(folder / clip.video.name),
            audio=clip.silent,
            models=_stored_models(models, chunks, None),
            chunks=stored_file(folder / "chunks.bin") if len(models) > 1 else None,
            source_bytes=self.source.stat().st_size,
            psnr=Quality(bicubic=floor.psnr, general=None, result=0.0),
        )
        write_manifest(folder, manifest)
        with monitor.stage("restore the video as a client does") as stage:
            errors = self._play(folder, clip, grid, stage)
            stage.summary = f"{errors.psnr:.2f} dB"
        quality = Quality(bicubic=floor.psnr, general=general, result=errors.psnr)
        final = {"models": _stored_models(models, chunks, errors), "psnr": quality}
        write_manifest(folder, manifest.model_copy(update=final))
        return folder

    def _networks(self, clip: Clip, grid: HaloGrid) -> tuple[list[Artifact], NDArray[np.uint8], float | None]:
        """(networks in fp32 or int8, network of each patch (F, P), PSNR of the general network or None)."""
        options, count = self.options, len(clip.low) * grid.grid.count
        everything = np.arange(count, dtype=np.int64)
        general = self._train("general", 0, clip, grid, everything, None)
        model = self._export("general", clip)
        single = np.zeros((len(clip.low), grid.grid.count), np.uint8)
        if options.groups == 1:
            return [model], single, None
        with self.monitor.stage("score the patches with the general network") as stage:
            with closing(Networks([model], grid, clip.scale, full_frame=True)) as networks:
                errors = measure(clip, grid.grid, restoring(networks, single), progress=stage.progress)
            stage.summary = f"{errors.psnr:.2f} dB"
        chunks = split_by_score(errors.scores, min(options.groups, count))
        if options.joint:
            members = joint_sample(chunks, options.seed)
            self._train("joint", 1, clip, grid, members, general)
            return [self._export("joint", clip)], single, errors.psnr
        return *self._per_chunk(clip, grid, chunks, general), errors.psnr

    def _per_chunk(
        self, clip: Clip, grid: HaloGrid, chunks: Chunks, general: Path
    ) -> tuple[list[Artifact], NDArray[np.uint8]]:
        """A network per chunk that has patches; equal scores can leave a chunk empty."""
        index = np.zeros(len(chunks.index), np.uint8)
        models: list[Artifact] = []
        for chunk in range(chunks.count):
            members = chunks.members(chunk)
            if not len(members):
                continue
            index[members] = len(models)
            name = f"chunk{len(models):02d}"
            self._train(name, len(models) + 1, clip, grid, members, general)
            models.append(self._export(name, clip))
        return models, index.reshape(len(clip.low), grid.grid.count)

    def _train(
        self,
        name: str,
        number: int,
        clip: Clip,
        grid: HaloGrid,
        members: NDArray[np.int64],
        start: Path | None,
    ) -> Path:
        weights = self.folder / f"{name}.safetensors"
        with self.monitor.stage(f"train {name} on {len(members)} patches") as stage:
            stage.summary = "(there already)" if weights.is_file() else ""
            patches = Patches(clip, grid, members, self.options.batch)
            train(patches, self.options, weights, number=number, start=start, progress=stage.progress)
        return weights

    def _export(self, name: str, clip: Clip) -> Artifact:
        out = self.folder / f"{name}.onnx"
        return export(self.folder / f"{name}.safetensors", name, self.options, clip, out, self.monitor)

    def _play(self, folder: Path, clip: Clip, grid: HaloGrid, stage: Stage) -> Errors:
        with Restorer(open_bundle(folder)) as restorer:

            def restore(index: int, low: Pixels) -> Pixels:
                return np.asarray(restorer({FRAME: low, INDEX: np.array([index])})[RESTORED], dtype=np.uint8)

            return measure(clip, grid.grid, restore, progress=stage.progress)


def _stored_models(
    models: Sequence[Artifact], chunks: NDArray[np.uint8], errors: Errors | None
) -> tuple[StoredModel, ...]:
    """The manifest's entries of the models; `errors` None: without PSNR."""
    entries = []
    for index, model in enumerate(models):
        mine = chunks == index
        psnr = decibel(float(errors.patches[mine].mean())) if errors is not None else None
        file = stored_file(model.path).model_dump()
        entries.append(StoredModel(**file, patches=int(mine.sum()), psnr=psnr))
    return tuple(entries)


def _enter(partial: Path, key: str, force: bool) -> None:
    """Make or resume the working folder; raises UsageError if it belongs to another encoding."""
    mark = partial / KEY
    if partial.exists() and (not mark.is_file() or mark.read_text() != key):
        if not force:
            raise UsageError(
                f"{partial} belongs to another encoding, or to another video",
                "go on with that one by its own command, or throw it away with --force",
            )
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {partial}: {error.strerror}", "choose another place with -o"
        ) from error
    write_text(mark, key)


def _replace(out: Path, made: Path, partial: Path) -> None:
    """Move the finished bundle to `out`; an older bundle is deleted only after that."""
    old = partial / "replaced"
    try:
        if out.is_symlink() or out.exists():
            out.rename(old)
        made.rename(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}", "choose another place with -o") from error
    shutil.rmtree(partial, ignore_errors=True)
