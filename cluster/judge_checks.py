"""What can be known of the judges of a config before Ray starts."""

from configs.load import ConfigError, judges
from configs.reward_service import RewardServiceConfig
from configs.schema import TrainConfig
from configs.verifiers import PythonReward, RemoteJudge
from reward_server.verifiers import VERIFIERS
from reward_server.verifiers.python import user_class


def check_judges(config: TrainConfig | RewardServiceConfig) -> None:
    """Raise ConfigError, naming the section, for a judge that its reward actors could not make.

    What asks endpoints is made once, which calls nobody and finds endpoints that are not allowed, broken templates and files,
    and, where judges run on this machine alone, missing tokens. Of a verifier of the user's own the class is looked up, and no
    object made. Judges of which something is still to be given are passed over.
    """
    for section, judge in judges(config):
        if judge.open_keys():
            continue
        try:
            if isinstance(judge, PythonReward):
                user_class(judge)
            elif isinstance(judge, RemoteJudge):
                _make(judge, tokens_are_here=config.cluster.address == "local")
        except ValueError as error:
            raise ConfigError(f"{section}: {error}") from None


def _make(judge: RemoteJudge, *, tokens_are_here: bool) -> None:
    if not tokens_are_here:
        judge = judge.model_copy(update={"remote": judge.remote.model_copy(update={"token_env": None, "token_file": None})})
    VERIFIERS[judge.kind](judge)  # nobody keeps it, which ends its thread
