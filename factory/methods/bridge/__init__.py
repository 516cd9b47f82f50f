"""The bridge: a real image of one domain carried into another, from several depths."""

from collections.abc import Iterator

from factory.method import invertible_methods
from factory.methods.bridge.plan import BridgeOptions, bridge_quotas
from factory.models.generator import Generator
from factory.sample.method import Drawer, Loaded, Method
from factory.sample.plan import Quota
from factory.sample.quotas import Planning


class Bridge(Method):
    """Draws with generators of other methods: one side inverts, another denoises."""

    name = "bridge"
    options = BridgeOptions
    by_sides = True
    draws_on = False  # its images are numbered by their depth

    def draws_with(self, generator: Generator) -> bool:
        """Return whether a generator binds domains, or can be inverted itself."""
        return generator.method in (self.name, *invertible_methods())

    def quotas(self, planning: Planning, options: BridgeOptions) -> Iterator[Quota]:
        """Yield a recipe for every source and direction, a request per depth."""
        return bridge_quotas(planning, options)

    def open(self, loaded: Loaded) -> Drawer:
        """Return what carries images between the sides."""
        from factory.methods.bridge.draw import BridgeMethod

        return BridgeMethod(loaded.sides, loaded.device)


METHOD = Bridge()
