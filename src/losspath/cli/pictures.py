"""The pictures of surfaces that commands draw, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from losspath.analysis.distances import DistanceMap, distance_map
from losspath.cli.console import say_file
from losspath.cli.jobs import figure_file
from losspath.cli.runs import Run
from losspath.files import digest_of
from losspath.geometry.grid import Grid
from losspath.geometry.plane import Plane, PrincipalPlane
from losspath.methods import SampledPCA
from losspath.surface import LOSS, Surface


@dataclass(frozen=True)
class Pictures:
    """Draws surfaces of a run.

    Attributes:
        run: the run.
        height: what is drawn.
        figure: the file that was asked for; None for names of their own among the run's figures.
        extension: of these.
        fade: whether what is doubtful is faded.
    """

    run: Run
    height: str = LOSS
    figure: Path | None = None
    extension: str = "png"
    fade: bool = True

    def draw(self, surface: Surface) -> Path:
        """Draws one surface, complete or not, and returns where."""
        from losspath.figures import plot_surface, save_figure

        name = f"surface-{surface.provenance['method']['name']}-{_short(surface)}"
        target = figure_file(self.run, self.figure, self._named(name))
        title = f"{self.run.title}: {surface.description}"
        drawn = plot_surface(surface, height=self.height, title=title, fade=self.fade)
        return save_figure(drawn, target)

    def previewer(self, methods: int) -> Callable[[Surface], None] | None:
        """Draws surfaces that are not complete where the complete ones will be; None for nowhere.

        Args:
            methods: by how many methods there will be surfaces.
        """
        if self.figure is not None and methods > 1:
            return None
        told: set[str] = set()

        def preview(surface: Surface) -> None:
            target = self.draw(surface)
            if surface.description not in told:
                told.add(surface.description)
                count = f"{surface.evaluated.sum():,} of {surface.evaluated.size:,} points"
                say_file(f"first figure, of {count}", target)

        return preview

    def draw_all(self, surfaces: Sequence[Surface], plane: Plane) -> None:
        """Draws each surface, and several side by side on one scale."""
        from losspath.figures import plot_surfaces, save_figure

        if len(surfaces) == 1 or self.figure is None:
            for surface in surfaces:
                say_file("figure", self.draw(surface))
        if len(surfaces) > 1:
            key = digest_of([surface.provenance["key"] for surface in surfaces])[:8]
            target = figure_file(self.run, self.figure, self._named(f"surfaces-{key}"))
            distance = _distance(surfaces, plane)
            panels = len(surfaces) + (distance is not None)
            drawn = plot_surfaces(
                surfaces,
                height=self.height,
                distance=distance,
                title=self.run.title,
                columns=4 if panels > 6 else 3,  # in two rows
                fade=self.fade,
            )
            say_file("figure", save_figure(drawn, target))

    def _named(self, name: str) -> str:
        of = "" if self.height == LOSS else f"-{self.height}"
        return f"{name}{of.replace(' ', '-')}{'' if self.fade else '-not-faded'}.{self.extension}"


def _distance(surfaces: Sequence[Surface], plane: Plane) -> DistanceMap | None:
    if not isinstance(plane, PrincipalPlane):
        return None
    made = {s.provenance["method"]["name"]: s.provenance["method"] for s in surfaces}
    rule = SampledPCA(side=made[SampledPCA.name]["side"])
    return distance_map(plane, grid=Grid(surfaces[0].x, surfaces[0].y), method=rule)


def _short(surface: Surface) -> str:
    rows, columns = surface.loss.shape
    return f"{columns}x{rows}-{surface.provenance['samples']}-{surface.provenance['key'][:8]}"
