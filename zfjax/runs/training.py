"""`train_and_evaluate(config, workdir)`: a whole run, resumed from where it stopped."""

from etils import epath
from ml_collections import ConfigDict

from zfjax.data.outside import root_of
from zfjax.data.spec import parse_spec
from zfjax.runs.claim import begin, held, is_begun
from zfjax.runs.folder import open_data
from zfjax.training import memory, sharding
from zfjax.training.config import check
from zfjax.training.loop import Outcome, schedule_of, train
from zfjax.training.state import create_net


def require_possible(config: ConfigDict) -> None:
    """Refuse a configuration that no run can have, before a folder is made or a picture read.

    Raises:
        UserError: a value out of range, an impossible net, or one that needs more memory than there is.
    """
    check(config)
    parse_spec(config.dataset)
    sharding.check_batch_size(config.batch_size)
    memory.require_training(config, create_net(config, num_classes=1))


def train_and_evaluate(config: ConfigDict, workdir: epath.PathLike) -> Outcome:
    """Train by `config` in `workdir`, resuming from the newest checkpoint there.

    After each epoch the validation split is scored, every example once, and a checkpoint is written. A run that was
    killed and started again ends with the same weights, bit for bit, as one that was not. The folder is held until the
    end, so no one else trains in it.

    Raises:
        UserError: the configuration, the data or the folder cannot be used, or the loss is no longer finite.
    """
    require_possible(config)
    with held(workdir, "zfjax train", root_of(config.dataset, config.data_dir)) as folder:
        data = open_data(config, folder if is_begun(folder, config) else None)
        schedule_of(config, data)
        begin(folder, config, data.classes, data.record)  # only now, since a refused start must change nothing
        return train(config, folder, data)
