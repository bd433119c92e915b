"""This package declares the benchmarks, one a module; [`TASKS`] has all of them by their names."""

from . import dailyomni, mmar, mmau, mvbench, omnibench, videomme, worldsense


TASKS = {
    task.name: task
    for task in (
        dailyomni.TASK,
        worldsense.TASK,
        omnibench.TASK,
        mmau.TASK,
        mmau.TEST_TASK,
        mmar.TASK,
        mvbench.TASK,
        videomme.TASK,
    )
}
