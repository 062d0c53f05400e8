"""Compile the native CPU kernels at installation where there is a compiler; all else is declared.

Without a compiler the installation succeeds all the same: the kernels are then compiled on first
use, or plain PyTorch runs in their place.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent


def _building() -> ModuleType:
    """The package's own file on compiling, which imports nothing that is not installed yet."""
    path = HERE / "src" / "convnext" / "ops" / "cpu" / "building.py"
    spec = importlib.util.spec_from_file_location("building", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


building = _building()


class BuildKernels(build_ext):
    """Builds a plain shared library, bound to no version of Python or PyTorch."""

    def run(self) -> None:
        """As ever, but for a $CXX that is no command: setuptools would stop there."""
        try:
            building.compilers()
        except building.BuildError as reason:
            self.warn(f"native CPU kernels are left out: {reason}")
            return
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Compile, or say in a line why not."""
        target = Path(self.get_ext_fullpath(ext.name))
        for other in target.parent.glob("kernels-*.so"):  # of older sources; a wheel takes all
            if other != target:
                other.unlink()
        try:
            if not building.supported():
                raise building.BuildError("they are for x86-64 processors under Linux")
            building.build(target)
        except building.BuildError as reason:
            self.warn(f"native CPU kernels are left out: {reason}")

    def get_ext_filename(self, fullname: str) -> str:
        """Not a Python module: a file named after its sources, as the package looks for it."""
        name: str = building.library_name()
        return str(Path(*fullname.split(".")[:-1], name))


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, its binary interface, platform."""
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[Extension("convnext.ops.cpu.native.kernels", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
