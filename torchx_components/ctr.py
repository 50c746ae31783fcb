"""ctr-rec's verbs as TorchX components. Each is one call into TorchX; what a parameter means is in its docstring.

On a laptop, from the checkout and with the environment active:

    torchx run -s local_cwd torchx_components/ctr.py:train --recipe launch/recipes/movielens.py:din --run_dir runs/din
"""

# Annotations are evaluated and spelled the old way, because TorchX 0.7 decodes flags by these very types.
from typing import Dict, List, Optional

import torchx.specs as specs
from torchx.components.dist import ddp

IMAGE = "ctr-rec:0.1.0"
MODULE = "ctr_rec"
# Seconds that torchrun waits for the ranks to save after a SIGTERM; its own default of 30 is short for large tables.
SAVE_BEFORE_THE_END = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "270"}


def prepare(
    recipe_dir: str,
    raw: str,
    out: str,
    split: Optional[str] = None,
    overwrite: bool = False,
    grow: Optional[str] = None,
    content: Optional[str] = None,
    semantic_ids: Optional[str] = None,
    force: bool = False,
    every: Optional[str] = None,
    context: Optional[int] = None,
    start: Optional[str] = None,
    end: Optional[str] = None,
    image: str = IMAGE,
    cpu: int = 4,
    memMB: int = 16384,
    h: Optional[str] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Turns raw files into a prepared log, in one process.

    Args:
        recipe_dir: folder with schema.py and build.py, such as data/movielens_1m
        raw: folder of the raw files, in the publisher's own layout
        out: folder of the prepared log to write
        split: name of a split in the recipe, or [train_start..]train_end,valid_end[,test_end] in the log's time unit
        overwrite: replace an existing prepared log once the new one is complete
        grow: prepared log whose table rows are kept; new ids get the rows behind them
        content: Parquet of item_id and vector, which becomes the item feature content
        semantic_ids: with content, such as 3x256: residual k-means codes as item features
        force: with content, also vectors learnt from times that the split scores
        every: 1d, 7d, 6h: one prepared log per period below out, each grown from the one before
        context: with every, events of a user that are kept before each period
        start: with every, date on which the first period begins, UTC
        end: with every, date to which the log is complete
        image: container image (launch/Dockerfile); of no account for local_cwd
        cpu: cores to ask for
        memMB: memory to ask for, in MB
        h: named resource of the scheduler, instead of cpu and memMB
        mounts: TorchX mounts, such as type=bind,src=/data,dst=/data
    """
    words = ["prepare", recipe_dir, "--raw", raw, "--out", out]
    words += ["--split", split] if split else []
    words += ["--overwrite"] if overwrite else []
    words += ["--grow", grow] if grow else []
    words += ["--content", content] if content else []
    words += ["--semantic-ids", semantic_ids] if semantic_ids else []
    words += ["--force"] if force else []
    words += ["--every", every] if every else []
    words += ["--context", str(context)] if context is not None else []
    words += ["--start", start] if start else []
    words += ["--end", end] if end else []
    return ddp(*words, m=MODULE, name="ctr-rec/prepare", j="1x1", image=image, cpu=cpu, memMB=memMB, h=h, mounts=mounts)


def train(
    *settings: str,
    recipe: str,
    run_dir: str,
    resume: bool = False,
    grow: bool = False,
    follow_days: Optional[str] = None,
    j: str = "1x2",
    image: str = IMAGE,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    h: Optional[str] = None,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Trains the model of a recipe on NODESxPROCESSES ranks, the same as bare torchrun does.

    Args:
        settings: overrides, after a double dash, such as -- train.seed=3 tower.width=64
        recipe: FILE.py:FUNCTION
        run_dir: folder of the run, on storage that every node sees
        resume: continue the run in run_dir from its last checkpoint
        grow: with resume, the log (prepared with grow) and the recipe may have more
        follow_days: folder of periods (prepare with every): score each, then train on it
        j: nodes x processes per node; on GPUs one process per GPU
        image: container image (launch/Dockerfile); of no account for local_cwd
        cpu: cores per node to ask for
        gpu: GPUs per node to ask for
        memMB: memory per node to ask for, in MB
        h: named resource of the scheduler, instead of cpu, gpu and memMB
        max_retries: how often the scheduler may restart the job after a lost node; needs resume
        env: environment of every process, such as OMP_NUM_THREADS=4
        mounts: TorchX mounts, such as type=bind,src=/data,dst=/data
    """
    words = ["train", recipe, "--run-dir", run_dir]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--resume"] if resume else []
    words += ["--grow"] if grow else []
    words += ["--follow-days", follow_days] if follow_days else []
    return ddp(
        *words,
        m=MODULE,
        name="ctr-rec/train",
        j=j,
        image=image,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        h=h,
        max_retries=max_retries,
        env={**SAVE_BEFORE_THE_END, **(env or {})},
        mounts=mounts,
    )


def evaluate(
    run_dir: str,
    split: str = "test",
    checkpoint: str = "best",
    log: Optional[str] = None,
    image: str = IMAGE,
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 8192,
    h: Optional[str] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Scores a split with a trained run and writes predictions, metrics and report.html into it.

    Args:
        run_dir: folder of the run
        split: valid or test
        checkpoint: best, last or step-N
        log: prepared log, instead of the one the run was trained on
        image: container image (launch/Dockerfile); of no account for local_cwd
        cpu: cores to ask for
        gpu: GPUs to ask for
        memMB: memory to ask for, in MB
        h: named resource of the scheduler, instead of cpu, gpu and memMB
        mounts: TorchX mounts, such as type=bind,src=/data,dst=/data
    """
    words = ["evaluate", run_dir, "--split", split, "--checkpoint", checkpoint]
    words += ["--log", log] if log else []
    return ddp(
        *words,
        m=MODULE,
        name="ctr-rec/evaluate",
        j="1x1",
        image=image,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        h=h,
        mounts=mounts,
    )
