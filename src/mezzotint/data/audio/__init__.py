"""Sources of audio: files, lists, benchmarks and embedded speech."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.audio.benchmarks import AudioBenchmark as AudioBenchmark
    from mezzotint.data.audio.embedded import Speech as Speech
    from mezzotint.data.audio.folder import AudioFolder as AudioFolder

__getattr__, __dir__ = lazy_names(__name__, __file__)
