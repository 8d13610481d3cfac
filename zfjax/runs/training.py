"""`train_and_evaluate(config, workdir)`: a whole run, from where its folder says that it stopped."""

from etils import epath
from ml_collections import ConfigDict

from zfjax.data.opening import check_spec
from zfjax.runs.folder import open_data, open_folder
from zfjax.training import sharding
from zfjax.training.config import check
from zfjax.training.loop import Outcome, train
from zfjax.training.state import create_net


def train_and_evaluate(config: ConfigDict, workdir: epath.PathLike) -> Outcome:
    """Trains by `config` in `workdir`, going on from the newest checkpoint there.

    After each epoch the validation split is scored, every example once, and a checkpoint is written. A run that was
    killed and started again ends with the same weights, bit for bit, as one that was not.

    Raises:
      UserError: the configuration, the data or the folder cannot be used, or the loss is no longer finite.
    """
    check(config)
    check_spec(config.dataset)  # before its name, as a workdir, finds another run there
    create_net(config, num_classes=1)  # a net that cannot be is refused before the pictures are read
    sharding.check_batch_size(config.batch_size)
    folder = open_folder(workdir, config)
    return train(config, folder, open_data(config, folder))
