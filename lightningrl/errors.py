"""Every error a user can meet. A message says what was found, what was expected, and what to do."""


class LightningRLError(Exception):
    """Base of all errors that the user can fix; the CLI prints it without a traceback and exits 2."""


class ConfigError(LightningRLError):
    """The experiment's YAML cannot be used: unknown key, wrong type, value out of range, contradiction."""


class CheckpointError(LightningRLError):
    """A model or training checkpoint is missing, damaged, or of another configuration."""


class BenchmarkError(LightningRLError):
    """A benchmark's data is missing, malformed, or its splits overlap."""


class TrainingError(LightningRLError):
    """A training cannot continue: its loss is not finite, or step after step gives nothing to learn from."""


class DecodeError(LightningRLError):
    """A request cannot be decoded: prompt too long, a token id out of range, a parameter out of range."""


class JudgeError(LightningRLError):
    """A judge cannot do its work: step after step nothing could be scored."""


class SandboxUnavailable(LightningRLError):
    """No jail level works on this machine; model-written code is not run without one."""


class StageError(LightningRLError):
    """A stage's inputs are missing or changed under it, or another process holds its folder."""


class StartError(StageError):
    """A stage cannot begin here, and every attempt would end in the same way."""


class DamagedError(StageError):
    """A file is not what the manifest says that lists it, or cannot be read."""


class Interrupted(LightningRLError):
    """A long stage was asked to stop (SIGTERM, time budget); its state is saved. The CLI exits 75."""
